"""The command, with the formula's networks in place of a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from click.testing import CliRunner, Result

from pnseg_runtime import plausible
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.cli import cli
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import networks
from tests.real_data import real
from tests.runtime.slide.local import local_segmenter
from tests.runtime.slide.made import sample_mosaic, save_image


@pytest.fixture
def run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "Segmenter", lambda *_: local_segmenter(bundle))

    def run_(*arguments: str | Path) -> Result:
        given = ["slide", *map(str, arguments), "--bundle", str(bundle), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(cli, given)

    return run_


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return save_image(tmp_path / "slide.png", sample_mosaic())


def rows(out: Path) -> list[dict]:
    return pq.read_table(out).to_pylist()


def test_a_slide_is_done_and_told_in_a_row(run, slide: Path, tmp_path: Path) -> None:
    done = run(slide, "--mpp", "0.25", "--only", "parquet,geojson.gz")
    assert done.exit_code == 0, done.output
    assert "slide.png" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("slide.parquet", "slide.geojson.gz", "slide.run.json", "slide.thumbnail.png", "slide.tissue.png"),
        "slide.work",
    }


def test_a_resolution_that_the_nuclei_belie_is_a_warning(run, slide: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plausible, "SMALLEST", 17.0)
    done = run(slide, "--mpp", "0.25", "--only", "parquet")
    assert done.exit_code == 0, done.output
    assert "Warning: " in done.stderr
    doubt = json.loads((tmp_path / "out" / "slide.run.json").read_text())["doubt"]
    assert doubt in done.stderr


def test_a_slide_on_which_there_is_nothing_to_look_at_is_a_warning(run, tmp_path: Path) -> None:
    empty = save_image(tmp_path / "empty.png", np.full((400, 500, 3), 240, np.uint8))
    for _ in range(2):  # done, and found to be done
        done = run(empty, "--mpp", "0.25", "--only", "parquet")
        assert done.exit_code == 0, done.output
        assert "empty.png: nothing was looked at" in done.stderr
        assert "empty.tissue.png" in done.stderr
    assert "is done already" in done.stderr


def test_json_holds_what_the_table_holds(run, slide: Path) -> None:
    done = run(slide, "--mpp", "0.25", "--only", "parquet", "--json")
    told = json.loads(done.stdout)
    assert told["slides"][0]["nuclei"] > 10
    assert told["failed"] == []


def test_a_bad_slide_never_stops_the_others_and_the_exit_code_tells(run, slide: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_text("no slide")
    done = run(tmp_path / "bad.svs", slide, "--mpp", "0.25", "--only", "parquet")
    assert done.exit_code == 1
    assert "bad.svs: cannot be opened as a slide" in done.stderr
    assert (tmp_path / "out" / "slide.parquet").exists()


def test_a_slide_without_pixel_size_is_refused_with_the_remedy(run, slide: Path, tmp_path: Path) -> None:
    done = run(slide)
    assert done.exit_code == 1
    assert "--mpp" in done.stderr
    assert not list(tmp_path.glob("out/*.parquet"))


def test_a_rectangle_keeps_the_nuclei_inside_it_and_changes_none(run, slide: Path, tmp_path: Path) -> None:
    run(slide, "--mpp", "0.25", "--only", "parquet", "--no-tissue")
    everything = rows(tmp_path / "out" / "slide.parquet")
    done = run(slide, "--mpp", "0.25", "--only", "parquet", "--no-tissue", "--roi", "100,50,200,180")
    assert "starting anew" in done.stderr
    inside = [r for r in everything if 99.5 <= r["point_x"] < 299.5 and 49.5 <= r["point_y"] < 229.5]
    found = rows(tmp_path / "out" / "slide.parquet")
    assert 0 < len(found) < len(everything)
    assert {(r["point_x"], r["point_y"]) for r in found} == {(r["point_x"], r["point_y"]) for r in inside}


def test_polygons_with_holes_are_regions_of_interest(run, slide: Path, tmp_path: Path) -> None:
    square = [[0, 0], [512, 0], [512, 384], [0, 384], [0, 0]]
    hole = [[100, 50], [300, 50], [300, 230], [100, 230], [100, 50]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square, hole]}, "properties": {}}
    (tmp_path / "roi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    run(slide, "--mpp", "0.25", "--only", "parquet", "--no-tissue", "--roi", tmp_path / "roi.geojson")
    found = rows(tmp_path / "out" / "slide.parquet")
    assert found
    assert not [r for r in found if 100 < r["point_x"] < 299 and 50 < r["point_y"] < 229]


@pytest.mark.parametrize(("text", "said"), [("1,2,3", "no region of interest"), ("1,2,-3,4", "over 0")])
def test_a_region_that_is_none_is_one_sentence(run, slide: Path, text: str, said: str) -> None:
    done = run(slide, "--mpp", "0.25", "--roi", text)
    assert done.exit_code == 1
    assert said in done.stderr


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


def test_slides_whose_results_would_have_one_name_are_refused(run, slide: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "slide.tif", sample_mosaic())
    done = run(slide, tmp_path / "slide.tif", "--mpp", "0.25", "--only", "parquet")
    assert done.exit_code == 1
    assert "would be named as those of" in done.stderr


def test_auto_is_settled_once_for_all_slides_of_a_command(
    run, slide: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(_: Bundle, options: Options, backend: str) -> Segmenter:
        asked.append(backend)
        return local_segmenter(bundle, options, backend="onnxruntime")

    monkeypatch.setattr(networks, "Segmenter", opened)
    other = save_image(tmp_path / "other.png", sample_mosaic()[::-1])
    done = run(slide, other, "--mpp", "0.25", "--only", "parquet", "--backend", "auto")
    assert done.exit_code == 0, done.output
    assert asked == ["auto"]
    assert done.stderr.count("Backend: ") == 1


@pytest.mark.parametrize("option", [("--workers", "2"), ("--address", "auto")])
def test_options_of_ray_without_ray_are_wrong_usage(run, slide: Path, option: tuple[str, str]) -> None:
    done = run(slide, "--mpp", "0.25", *option)
    assert done.exit_code == 2
    assert "--engine ray" in done.stderr


def test_an_unknown_kind_of_output_is_wrong_usage(run, slide: Path) -> None:
    assert run(slide, "--only", "csv").exit_code == 2


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


def two_pieces(path: Path, height: int, coarse: bool = False) -> Path:
    """A tiled TIFF, glass with tissue at its top and at its end; ``coarse``: with a level of half the size."""
    image = np.full((height, 512, 3), 240, np.uint8)
    image[:384] = image[-384:] = sample_mosaic()
    tiled = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, **tiled)
        if coarse:
            writer.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **tiled)
    return path


def spoil_lower_half(path: Path, level: int) -> None:
    """Zero the tiles of the lower half of a level."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level]
        tiles = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as stream:
        for offset, count in tiles[len(tiles) // 2 :]:
            stream.seek(offset)
            stream.write(bytes(count))


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
