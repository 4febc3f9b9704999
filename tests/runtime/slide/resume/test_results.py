"""Results take their names together, stay where they are still right, and are never mixed."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs import atomic
from pnseg_runtime.slide import SlideOptions, SlideResult, join
from pnseg_runtime.slide.join import current_result
from pnseg_runtime.slide.outputs import labels
from pnseg_runtime.slide.plan import Plan
from pnseg_runtime.slide.store import Store
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone
from tests.runtime.slide.local import hashes, run_local
from tests.runtime.slide.resume.running import (
    KINDS,
    OPTIONS,
    OTHER,
    Counting,
)


def test_pictures_take_the_place_of_those_of_another_result_together_with_the_outputs(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    class Stopped(Watcher):
        def core_done(self, done: CoreDone) -> None:
            raise KeyboardInterrupt

    def run(roi: str, watcher: Watcher | None = None) -> bytes:
        options = SlideOptions(mpp=0.25, core=192, margin=192, roi=roi)
        with contextlib.suppress(KeyboardInterrupt):
            run_local(slide, tmp_path, bundle, ("parquet",), options, watcher=watcher, keep_work=False)
        return (tmp_path / "slide.tissue.png").read_bytes()

    own = run("0,0,300,300")
    assert run("500,100,300,300", Stopped()) == own
    watcher = Counting()
    assert run("0,0,300,300", watcher) == own
    assert (watcher.cores, len(watcher.kept)) == ([], 1)
    assert run("500,100,300,300") != own


def test_a_result_whose_pictures_were_replaced_has_its_own_again(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    own = {name: (out / name).read_bytes() for name in ("slide.thumbnail.png", "slide.tissue.png")}
    (out / "slide.thumbnail.png").write_bytes(b"another")
    (out / "slide.tissue.png").unlink()
    watcher = Counting()
    run_local(slide, out, bundle, KINDS, OPTIONS, watcher=watcher)
    assert len(watcher.kept) == 1
    assert {name: (out / name).read_bytes() for name in own} == own


def test_outputs_that_cannot_take_their_names_leave_no_new_label_image_beside_old_outlines(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    rename = atomic._rename_all

    def refuse(drafts: list[Path], targets: list[Path], removed: list[Path]) -> None:
        if out / "slide.geojson" in targets:
            raise OSError(errno.EROFS, "Read-only file system")
        rename(drafts, targets, removed)

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "_rename_all", refuse)
        with pytest.raises(OutputError, match="Read-only file system"):
            run_local(slide, out, bundle, ("geojson", "labels"), OTHER)
    assert (out / "slide.geojson").read_bytes() == undisturbed.outputs[".geojson"].read_bytes()
    assert not (out / "slide.labels.zarr").exists()
    result = run_local(slide, out, bundle, ("geojson", "labels"), OTHER)
    assert hashes(result) == hashes(run_local(slide, tmp_path / "new", bundle, ("geojson", "labels"), OTHER))


def test_a_label_image_that_cannot_be_written_is_named_and_nothing_else_appears(
    slide: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zarr.open_group", full)
    with pytest.raises(OutputError, match=r"slide\.labels\.zarr: cannot be written \(No space left on device\)"):
        run_local(slide, tmp_path, bundle, ("geojson", "labels"), OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["slide.work"]
    assert not list(tmp_path.glob("*.work/*/drafts/*"))


def test_a_label_image_that_cannot_take_its_name_is_named_and_written_by_the_next_run(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    run_local(slide, out, bundle, KINDS, OTHER)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if Path(target).name == "slide.labels.zarr":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        with pytest.raises(OutputError, match=r"slide\.labels\.zarr: cannot be written \(Permission denied\)"):
            run_local(slide, out, bundle, KINDS, OPTIONS)
    assert not (out / "slide.labels.zarr").exists(), "none of another result"
    watcher = Counting()
    assert hashes(run_local(slide, out, bundle, KINDS, OPTIONS, watcher=watcher)) == hashes(undisturbed)
    assert watcher.cores == []


@pytest.mark.parametrize("keep_work", [True, False])
def test_a_slide_that_is_done_is_neither_done_nor_written_again(
    keep_work: bool, slide: Path, bundle: Path, tmp_path: Path
) -> None:
    first = run_local(slide, tmp_path, bundle, ("parquet", "pictures"), OPTIONS, keep_work=keep_work)
    before = {path: path.stat().st_mtime_ns for path in (first.run, *first.outputs.values())}
    watcher = Counting()
    again = run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS, keep_work=keep_work, watcher=watcher)
    assert (watcher.cores, watcher.written, watcher.kept) == ([], [], [again])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (again.nuclei, again.classes, again.doubt) == (first.nuclei, first.classes, first.doubt)
    assert again.area_mm2 == pytest.approx(first.area_mm2, abs=1e-6)
    assert list(again.outputs) == [".parquet"]


@pytest.mark.parametrize("lacking", ["kind", "file", "picture", "fingerprint", "unreadable"])
def test_results_that_are_not_all_there_or_not_whole_are_written(
    lacking: str, slide: Path, bundle: Path, tmp_path: Path
) -> None:
    first = run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS, keep_work=False)
    expected = first.outputs[".parquet"].read_bytes()
    kinds = ("parquet", "geojson") if lacking == "kind" else ("parquet",)
    if lacking == "file":
        first.outputs[".parquet"].unlink()
    elif lacking == "picture":
        (tmp_path / "slide.tissue.png").unlink()
    elif lacking in ("fingerprint", "unreadable"):
        facts = json.loads(first.run.read_text())
        first.run.write_text(json.dumps(facts | {lacking: [{"box": [0, 0, 9, 9], "reason": "damaged"}]}))
    watcher = Counting()
    again = run_local(slide, tmp_path, bundle, kinds, OPTIONS, watcher=watcher)
    assert len(watcher.cores) > 1
    assert all(path.exists() for path in again.outputs.values())
    assert (tmp_path / "slide.tissue.png").exists()
    assert again.outputs[".parquet"].read_bytes() == expected


def test_outputs_of_the_same_result_that_are_asked_for_one_after_the_other_are_all_listed(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    for kind in ("parquet", "geojson", "pictures"):
        result = run_local(slide, tmp_path, bundle, (kind,), OPTIONS)
    (tmp_path / "slide.geojson").unlink()
    assert list(run_local(slide, tmp_path, bundle, ("geojson.gz",), OPTIONS).outputs) == [".geojson.gz"]
    told = json.loads(result.run.read_text())
    kept = (".parquet", ".density.png", ".classes.png", ".geojson.gz")
    assert told["outputs"] == {suffix: f"slide{suffix}" for suffix in kept}
    assert told["options"]["only"] == ["geojson.gz", "parquet", "pictures"]


def test_outputs_of_another_result_are_removed_and_nothing_else(slide: Path, bundle: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.geojson"
    first = run_local(slide, out, bundle, ("parquet", "labels", "pictures"), OPTIONS)
    other.write_text("not of this folder")
    (out / "slide.geojson").write_text("of somebody else")
    facts = json.loads(first.run.read_text())
    facts["outputs"][".geojson.gz"] = "../other.geojson"
    first.run.write_text(json.dumps(facts))
    result = run_local(slide, out, bundle, ("parquet",), SlideOptions(mpp=0.25, core=192, tissue=False, margin=192))
    assert json.loads(result.run.read_text())["outputs"] == {".parquet": "slide.parquet"}
    left = {path.name for path in out.iterdir()} - {"slide.work", "slide.thumbnail.png", "slide.tissue.png"}
    assert left == {"slide.parquet", "slide.run.json", "slide.geojson"}
    assert other.exists()


def test_results_that_cannot_be_joined_are_let_go_of_in_silence(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    (out / "slide.run.json").unlink()  # else there is nothing to join

    def fail(*_: object) -> None:
        raise OutputError("damaged")

    monkeypatch.setattr(Store, "load_settled", fail)
    with pytest.raises(OutputError, match="damaged"):
        run_local(slide, out, bundle, KINDS, OPTIONS)
    gc.collect()
    assert noise == []
    assert (out / "slide.parquet").read_bytes() == undisturbed.outputs[".parquet"].read_bytes()


def test_a_label_image_that_cannot_be_written_leaves_nothing_of_itself(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    (out / "slide.run.json").unlink()

    def fail(draft: Path, *_: object, **__: object) -> None:
        (draft / "0").mkdir(parents=True)
        raise OutputError("no room")

    monkeypatch.setattr(labels, "write_labels", fail)
    with pytest.raises(OutputError, match="no room"):
        run_local(slide, out, bundle, ("labels",), OPTIONS)
    assert not list(out.glob("*.work/*/drafts/*"))


@pytest.mark.parametrize(
    "text",
    ["[]", "{half", '{"fingerprint": "f", "unreadable": []}', '{"fingerprint": "f", "unreadable": [], "nuclei": 3}'],
)
def test_a_run_json_that_does_not_tell_a_whole_result_tells_none(text: str, tmp_path: Path) -> None:
    plan = Plan((), 192, 512, "f", {})
    job = SimpleNamespace(folder=tmp_path, stem="slide", plan=plan, slide=tmp_path / "slide.png", started_anew=None)
    (tmp_path / "slide.run.json").write_text(text)
    assert current_result(job, ()) is None


def test_of_an_area_of_nothing_nobody_knows_the_nuclei_in_a_square_millimetre(tmp_path: Path) -> None:
    assert SlideResult(tmp_path, tmp_path, {}, 0, {}, 0.0, 0, []).per_mm2 is None


def test_a_region_that_several_cores_cannot_read_is_told_once() -> None:
    boxes = [(256, 0, 512, 256), (0, 0, 256, 256), (256, 0, 512, 256)]
    told = join._regions([(box, "bad block") for box in boxes])
    assert told == [{"box": list(box), "reason": "bad block"} for box in sorted(set(boxes))]
