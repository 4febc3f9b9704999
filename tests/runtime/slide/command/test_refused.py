"""What pnseg slide refuses or cannot do is one sentence, and costs no result."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import networks
from tests.runtime.slide.command.results import contents
from tests.runtime.slide.local import local_segmenter
from tests.runtime.slide.made import sample_mosaic, save_image


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


@pytest.mark.parametrize("option", [("--workers", "2"), ("--address", "auto")])
def test_options_of_ray_without_ray_are_wrong_usage(run, slide: Path, option: tuple[str, str]) -> None:
    done = run(slide, "--mpp", "0.25", *option)
    assert done.exit_code == 2
    assert "--engine ray" in done.stderr


def test_an_unknown_kind_of_output_is_wrong_usage(run, slide: Path) -> None:
    assert run(slide, "--only", "csv").exit_code == 2
