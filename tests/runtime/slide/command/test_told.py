"""What pnseg slide tells of slides: rows, JSON, warnings and progress."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pnseg_runtime import plausible
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.cli import slide as slides
from pnseg_runtime.cli.slide_progress import Display
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import Busy, SlideResult, networks
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.work import CoreDone
from tests.runtime.slide.local import local_segmenter
from tests.runtime.slide.made import sample_mosaic, save_image


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
