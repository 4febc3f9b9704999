"""The command, with the formula's networks in place of a model."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from click.testing import CliRunner, Result
from rich.console import Console

from pnseg_runtime import plausible
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.cli import cli
from pnseg_runtime.cli import slide as slides
from pnseg_runtime.cli.slide_progress import Display
from pnseg_runtime.errors import BackendError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import Busy, SlideResult, networks
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.work import CoreDone
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
    told = json.loads(run(slide, "--mpp", "0.25", "--only", "parquet", "--json").stdout)
    assert told["slides"][0]["doubt"] == doubt


def test_a_slide_on_which_there_is_nothing_to_look_at_is_a_warning(run, tmp_path: Path) -> None:
    empty = save_image(tmp_path / "empty.png", np.full((400, 500, 3), 240, np.uint8))
    for _ in range(2):  # done, and found to be done
        done = run(empty, "--mpp", "0.25", "--only", "parquet")
        assert done.exit_code == 0, done.output
        assert "empty.png: nothing was looked at" in done.stderr
        assert "empty.tissue.png" in done.stderr
        assert done.stdout.split()[-5:] == ["empty.png", "0", "0.000", "–", "0"]
    assert "is done already" in done.stderr
    assert json.loads((tmp_path / "out" / "empty.run.json").read_text())["nuclei_per_mm2"] is None


def test_a_region_on_glass_between_tissue_is_a_warning_and_has_no_nuclei_per_mm2(run, tmp_path: Path) -> None:
    path = two_pieces(tmp_path / "two.tif", 1280)
    done = run(path, "--mpp", "0.25", "--only", "parquet", "--roi", "0,620,500,40", "--json")
    assert done.exit_code == 0, done.output
    assert "two.tif: nothing was looked at" in done.stderr
    facts = json.loads((tmp_path / "out" / "two.run.json").read_text())
    assert (facts["cores"], facts["area_mm2"], facts["nuclei_per_mm2"]) == (1, 0, None)
    assert json.loads(done.stdout)["slides"][0]["nuclei_per_mm2"] is None


def test_a_name_is_printed_as_it_is(run, slide: Path, tmp_path: Path) -> None:
    odd = slide.rename(tmp_path / ":smile: [d=1,x=0].png")
    for _ in range(2):
        done = run(odd, "--mpp", "0.25", "--only", "parquet")
        assert done.exit_code == 0, done.output
        assert any(line.startswith(f"{odd.name} ") for line in done.stdout.splitlines())
    assert done.stderr.startswith(f"{odd.name}: is done already")


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


@pytest.mark.parametrize(
    ("text", "said"), [("1,2,3", "no region of interest"), ("1,2,-3,4", "over 0"), ("0,0,inf,9", "finite")]
)
def test_a_region_that_is_none_is_one_sentence(run, slide: Path, text: str, said: str) -> None:
    done = run(slide, "--mpp", "0.25", "--roi", text)
    assert done.exit_code == 1
    assert said in done.stderr


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("keep", ["--keep-work", "--no-keep-work"])
@pytest.mark.parametrize("region", ["rectangle", "polygon"])
def test_a_region_beside_the_slide_is_an_error_that_costs_no_result(
    region: str, keep: str, run, slide: Path, tmp_path: Path
) -> None:
    asked = (slide, "--mpp", "0.25", "--only", "parquet", keep)
    assert run(*asked).exit_code == 0
    before = contents(tmp_path / "out")
    beside = "100000,0,10,10"
    if region == "polygon":
        ring = [[600, 10], [700, 10], [700, 90], [600, 10]]
        beside = str(tmp_path / "beside.geojson")
        Path(beside).write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    done = run(*asked, "--roi", beside)
    assert done.exit_code == 1
    assert f"{slide}: no part of it lies in the region of interest {beside}; the slide is 512×384 px" in done.stderr
    assert contents(tmp_path / "out") == before


def test_a_result_of_other_options_can_be_guarded(run, slide: Path, tmp_path: Path) -> None:
    asked = (slide, "--mpp", "0.25", "--only", "parquet", "--no-overwrite")
    assert run(*asked).exit_code == 0
    before = contents(tmp_path / "out")
    done = run(*asked, "--no-tissue")
    assert done.exit_code == 1
    assert f"{tmp_path / 'out' / 'slide.parquet'}: exists already" in done.stderr
    assert contents(tmp_path / "out") == before
    again = run(*asked)
    assert (again.exit_code, "is done already" in again.stderr) == (0, True), "the same result is taken up"
    assert run(slide, "--mpp", "0.25", "--only", "geojson", "--no-overwrite").exit_code == 0, "other kinds join it"
    (tmp_path / "out" / "slide.geojson.gz").write_text("of somebody else")
    assert run(slide, "--mpp", "0.25", "--only", "geojson.gz", "--no-overwrite").exit_code == 1
    assert run(*asked, "--no-tissue", "--overwrite").exit_code == 0


def test_the_engine_ray_without_ray_is_an_extra_that_is_missing(run, slide: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pnseg_runtime.slide.ray_engine", raising=False)
    monkeypatch.delattr("pnseg_runtime.slide.ray_engine", raising=False)
    done = run(slide, "--mpp", "0.25", "--engine", "ray")
    assert done.exit_code == 2, done.output
    assert done.stderr == 'Error: pnseg slide --engine ray needs Ray: pip install "pnseg[ray]"\n'


def test_what_cannot_be_opened_or_looked_into_is_one_sentence_and_stops_no_other(
    run, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, closed, look = "x" * 300, tmp_path / "closed", Path.iterdir
    closed.mkdir()

    def refuse(folder: Path) -> Any:  # whoever is root may look into everything
        if folder == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return look(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "access", lambda path, _: path != os.fspath(closed))
    done = run(endless, closed, slide, "--mpp", "0.25", "--only", "parquet")
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    assert f"{endless}: cannot be opened (File name too long); check its path and permissions." in done.stderr
    assert f"{closed}: cannot be looked into (Permission denied); change its permissions" in done.stderr
    assert "of 3 slides, 2 failed" in done.stderr
    assert (tmp_path / "out" / "slide.parquet").exists()


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


@pytest.mark.parametrize("left", ["results", "work"])
def test_a_slide_of_the_name_of_another_one_is_refused_by_a_later_command(
    left: str, run, slide: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = save_image(tmp_path / "elsewhere" / "slide.png", sample_mosaic()[::-1])
    asked = ("--mpp", "0.25", "--only", "parquet")
    assert run(slide, *asked, *(["--no-keep-work"] if left == "results" else [])).exit_code == 0
    if left == "work":
        (tmp_path / "out" / "slide.run.json").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = run(other, *asked)
    assert done.exit_code == 1
    assert f"{other}: its results would be named as those of {slide}; use another --out" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    moved = tmp_path / "moved.png"
    slide.rename(moved)
    assert run(other, *asked).exit_code == 0, "whose file is gone is no rival"
    other.write_bytes(moved.read_bytes())
    assert run(other, *asked).exit_code == 0, "neither is the file that a result is of, changed"


def test_the_same_slide_in_two_places_is_no_other_one(run, slide: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "slide.png"
    copy.write_bytes(slide.read_bytes())
    asked = ("--mpp", "0.25", "--only", "parquet")
    assert run(slide, *asked).exit_code == 0
    done = run(copy, *asked)
    assert done.exit_code == 0, done.stderr
    assert "is done already" in done.stderr


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names of files are Unicode here")
def test_a_slide_whose_path_is_no_utf8_is_done_and_found_again(run, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    path = folder / os.fsdecode(b"r\xe9sultat.png")
    save_image(path, sample_mosaic())
    asked = ("--mpp", "0.25", "--only", "parquet,labels,geojson")
    done = run(path, *asked)
    assert done.exit_code == 0, done.stderr
    assert "r\\udce9sultat.png" in done.stdout
    out = tmp_path / "out"
    text = (out / f"{path.stem}.run.json").read_text(encoding="utf-8")
    assert json.loads(text)["slide"]["path"] == str(path)
    done = run(path, *asked, "--json")
    assert "is done already" in done.stderr
    assert json.loads(done.stdout)["slides"][0]["slide"] == str(path)


def test_a_backend_that_does_not_start_costs_no_work_that_was_kept(
    run, slide: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(_: Bundle, options: Options, backend: str) -> Segmenter:
        if backend == "openvino":
            raise BackendError("openvino: does not start.")
        return local_segmenter(bundle, options, backend=backend)

    monkeypatch.setattr(networks, "Segmenter", opened)
    asked = (slide, "--mpp", "0.25", "--only", "parquet", "--core", "192", "--margin", "192")
    assert run(*asked).exit_code == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = run(*asked, "--backend", "openvino")
    assert done.exit_code == 1
    assert "does not start" in done.stderr
    assert "starting anew" not in done.stderr
    assert {path: path.read_bytes() for path in kept} == kept


def test_slides_that_others_work_on_come_again_at_the_end_and_are_then_waited_for(
    run, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, asked, work = save_image(tmp_path / "b.png", sample_mosaic()[::-1]), [], slides.run_slide

    def busy(path: Path, *args: Any, wait: bool, **more: Any) -> SlideResult:
        asked.append((path.name, wait))
        if path == slide and not wait:
            raise Busy
        return work(path, *args, wait=wait, **more)

    monkeypatch.setattr(slides, "run_slide", busy)
    done = run(slide, second, "--mpp", "0.25", "--only", "parquet", "--json")
    assert done.exit_code == 0, done.output
    assert asked == [("slide.png", False), ("b.png", False), ("slide.png", True)]
    assert [Path(each["slide"]).name for each in json.loads(done.stdout)["slides"]] == ["slide.png", "b.png"]
    asked.clear()
    assert run(slide, "--mpp", "0.25", "--only", "parquet").exit_code == 0
    assert asked == [("slide.png", True)], "with nothing else to do it waits at once"


def test_without_a_terminal_there_is_a_line_a_slide_with_its_name_whole(run, tmp_path: Path) -> None:
    name = "S1 [he] " + "long " * 30 + ":smile:.png"
    path = save_image(tmp_path / name, sample_mosaic())
    done = run(path, "--mpp", "0.25", "--only", "parquet")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: done, ")
    assert name in done.stdout
    again = run(path, "--mpp", "0.25", "--only", "parquet")
    (line,) = again.stderr.splitlines()
    assert line.startswith(f"{name}: is done already")


@pytest.mark.parametrize("terminal", [False, True])
def test_while_cores_are_done_there_is_at_most_one_line_a_minute_and_none_beside_a_bar(terminal: bool) -> None:
    now, stream = [0.0], io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=40)
    core = Core(0, 0, (0, 0, 100, 100), (0, 0, 100, 100))
    store = SimpleNamespace(has_found=lambda _: False)
    planned = SimpleNamespace(
        slide=Path("[red]a.svs"),
        started_anew=None,
        plan=SimpleNamespace(cores=(core,) * 300),
        store=store,
        resolution=SimpleNamespace(work_mpp=0.25),
    )
    display = Display(console, clock=lambda: now[0])
    display.planned(planned)
    for _ in range(300):  # of a second each
        now[0] += 1
        display.core_done(CoreDone(core, 5, 10_000, 0))
    lines = stream.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines] == (
        [] if terminal else [f"[red]a.svs: {done} of 300 cores" for done in (60, 120, 180, 240, 300)]
    )


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
