"""Real slides, and slides of which a part is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.real_data import real
from tests.runtime.slide.command.results import rows
from tests.runtime.slide.made import sample_mosaic, spoil_lower_half, two_pieces


def test_a_damaged_part_is_left_out_told_and_tried_again(run, tmp_path: Path) -> None:
    image = np.tile(sample_mosaic(), (2, 2, 1))
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, image, tile=(128, 128), compression="jpeg", photometric="rgb")
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[8 * 2 + 3], page.databytecounts[8 * 2 + 3]
    data = bytearray(path.read_bytes())
    sound = bytes(data)
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    done = run(path, "--mpp", "0.25", "--only", "parquet", "--no-tissue", "--core", "192", "--margin", "192")
    assert done.exit_code == 1
    assert "unreadable parts were left out" in done.stderr
    told = json.loads((tmp_path / "out" / "damaged.run.json").read_text())
    x0, y0, x1, y1 = told["unreadable"][0]["box"]
    assert x0 <= 3 * 128 < x1
    assert y0 <= 2 * 128 < y1
    few = len(rows(tmp_path / "out" / "damaged.parquet"))
    path.write_bytes(sound)
    done = run(path, "--mpp", "0.25", "--only", "parquet", "--no-tissue", "--core", "192", "--margin", "192")
    assert done.exit_code == 0
    assert len(rows(tmp_path / "out" / "damaged.parquet")) > few > 20


@pytest.mark.parametrize("name", ["unopenable.tiff", "unreadable.svs", "TCGA-CR-7395-01A-01-TS1.svs", "boxes.tiff"])
def test_real_slides_that_cannot_be_done_end_with_one_sentence(run, name: str) -> None:
    done = run(real(f"wsi/{name}"))
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert [line for line in done.stderr.splitlines() if name in line]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small.svs", []),
        ("boxes.tiff", ["--mpp", "0.25"]),
        ("smalltif.tif", ["--mpp", "0.25"]),
        ("TCGA-CR-7395-01A-01-TS1.svs", ["--mpp", "0.25", "--roi", "1500,1500,600,500"]),
        ("CMU-1-Small-Region.svs", ["--roi", "1000,700,300,300"]),
    ],
)
def test_real_slides_are_done(run, name: str, options: list[str], tmp_path: Path) -> None:
    path = real(f"wsi/{name}")
    done = run(path, *options, "--only", "parquet")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / f"{path.stem}.parquet").exists()


def test_the_pixels_of_a_real_slide_in_another_file_give_the_same_nuclei(run, tmp_path: Path) -> None:
    from pnseg_runtime.slide.readers import open_slide
    from tests.runtime.slide.test_resolution import write_pyramid

    original = real("wsi/CMU-1-Small-Region.svs")
    slide = open_slide(original)
    write_pyramid(tmp_path / "pyramid.tif", slide.read(0, (0, 0, slide.shape[1], slide.shape[0])), 3, 256, mpp=0.499)
    roi = ["--roi", "1000,700,300,300", "--only", "parquet"]
    assert run(original, *roi).exit_code == run(tmp_path / "pyramid.tif", *roi).exit_code == 0
    first, second = (rows(tmp_path / "out" / f"{name}.parquet") for name in ("CMU-1-Small-Region", "pyramid"))
    assert len(first) == len(second) > 20
    points = [{(r["point_x"], r["point_y"]) for r in each} for each in (first, second)]
    assert len(points[0] & points[1]) / len(points[0]) > 0.97


def test_tissue_that_cannot_be_decoded_is_no_glass_but_told(run, tmp_path: Path) -> None:
    path = two_pieces(tmp_path / "two.tif", 1280)
    asked = (path, "--mpp", "0.25", "--only", "parquet", "--core", "384", "--margin", "192")
    assert run(*asked).exit_code == 0
    sound = rows(tmp_path / "out" / "two.parquet")
    spoil_lower_half(path, 0)
    done = run(*asked)
    assert done.exit_code == 1
    assert "unreadable parts were left out" in done.stderr
    told = json.loads((tmp_path / "out" / "two.run.json").read_text())
    assert max(part["box"][3] for part in told["unreadable"]) == 1280
    found = rows(tmp_path / "out" / "two.parquet")
    assert [r["point_y"] for r in found] == [r["point_y"] for r in sound if r["point_y"] < 640]


def test_tissue_is_found_where_only_the_level_of_the_thumbnail_is_damaged(run, tmp_path: Path) -> None:
    path = two_pieces(tmp_path / "two.tif", 4224, coarse=True)
    asked = (path, "--mpp", "0.25", "--only", "parquet", "--core", "960")
    assert run(*asked).exit_code == 0
    sound = rows(tmp_path / "out" / "two.parquet")
    spoil_lower_half(path, 1)
    assert run(*asked).exit_code == 0
    found = rows(tmp_path / "out" / "two.parquet")
    assert sum(r["point_y"] > 3840 for r in sound) > 20
    assert {(r["point_x"], r["point_y"]) for r in found} >= {(r["point_x"], r["point_y"]) for r in sound}
