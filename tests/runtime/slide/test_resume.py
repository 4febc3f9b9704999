"""Whatever kills a run, the same command ends it with the same bytes, and nothing is done twice or mixed."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import json
import multiprocessing
import random
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError, OutputError
from pnseg_runtime.options import Options
from pnseg_runtime.outputs import atomic
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import Busy, Model, SlideOptions, SlideResult, join, networks, run_slide
from pnseg_runtime.slide.claims import Claims
from pnseg_runtime.slide.core import Found, load, save
from pnseg_runtime.slide.job import SlideJob, prepare
from pnseg_runtime.slide.join import current_result
from pnseg_runtime.slide.outputs import labels
from pnseg_runtime.slide.plan import Core, Plan
from pnseg_runtime.slide.store import Store, earlier_plans
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone, Settler
from tests.runtime.slide.local import Network, decoder, hashes, local_segmenter, run_local
from tests.runtime.slide.made import sample_mosaic, save_image

KINDS = ("geojson", "geojson.gz", "parquet", "labels", "pictures")
OPTIONS = SlideOptions(mpp=0.25, core=192, margin=192)

CORE_CLAIMS = "*.work/*/claims/[0-9]*.claim"

# A server without threads, with everything imported, forks a process in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.runtime.slide.local", "zarr", "pyarrow.parquet"])

pytest.importorskip("zarr", minversion="3")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image(tmp_path_factory.mktemp("slide") / "slide.png", np.tile(sample_mosaic(), (1, 2, 1)))


@pytest.fixture(scope="module")
def undisturbed(slide: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    return run_local(slide, tmp_path_factory.mktemp("undisturbed"), bundle, KINDS, OPTIONS)


def start(slide: Path, out: Path, bundle: Path, pause: float = 0.05) -> multiprocessing.Process:
    process = PROCESSES.Process(target=run_local, args=(slide, out, bundle, KINDS, OPTIONS, pause))
    process.start()
    return process


class Counting(Watcher):
    """Remembers what was done and said."""

    def __init__(self) -> None:
        self.cores: list[str] = []
        self.said: list[str] = []
        self.anew: str | None = None
        self.kept: list[SlideResult] = []
        self.written: list[str] = []

    def planned(self, job) -> None:
        self.anew = job.started_anew

    def core_done(self, done: CoreDone) -> None:
        self.cores.append(done.core.name)

    def say(self, what: str) -> None:
        self.said.append(what)

    def current(self, result: SlideResult) -> None:
        self.kept.append(result)

    def writing(self, part: str, done: int, of: int) -> None:
        self.written.append(part)


def found_files(out: Path) -> list[str]:
    return sorted(path.stem for path in out.glob("*.work/*/found/*.npz"))


@pytest.mark.slow
def test_ten_kills_at_random_moments_and_the_bytes_are_those_of_an_undisturbed_run(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    rng, before = random.Random(0), 0
    started = time.monotonic()
    probe = start(slide, tmp_path / "probe", bundle)
    probe.join()
    whole = time.monotonic() - started
    assert probe.exitcode == 0
    for _ in range(10):
        process = start(slide, tmp_path / "out", bundle)
        time.sleep(rng.uniform(0, 0.5 * whole))
        process.kill()
        process.join()
        done = found_files(tmp_path / "out")
        assert len(done) >= before, "a core that was done is done no more"
        for path in (tmp_path / "out").glob("*.work/*/found/*.npz"):
            load(path.read_bytes())  # complete, whatever happened
        before = len(done)
    last = start(slide, tmp_path / "out", bundle)
    last.join()
    assert last.exitcode == 0
    watcher = Counting()
    result = run_local(slide, tmp_path / "out", bundle, KINDS, OPTIONS, watcher=watcher)
    assert watcher.cores == []
    assert hashes(result) == hashes(undisturbed)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert not list((tmp_path / "out").glob("*.work/*/drafts/*"))


def test_only_missing_cores_are_done_again(slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, KINDS, OPTIONS)
    files = sorted(tmp_path.glob("*.work/*/found/*.npz"))
    lost = [files[1], files[-1]]
    for path in lost:
        path.unlink()
    for path in tmp_path.glob("*.work/*/settled/*"):
        path.unlink()
    watcher = Counting()
    result = run_local(slide, tmp_path, bundle, KINDS, OPTIONS, watcher=watcher)
    assert watcher.cores == [path.stem for path in lost]
    assert hashes(result) == hashes(undisturbed)


def test_the_order_in_which_cores_are_done_does_not_matter(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pnseg_runtime.slide import work

    in_order = work._to_do
    monkeypatch.setattr(work, "_to_do", lambda *args: reversed(list(in_order(*args))))
    assert hashes(run_local(slide, tmp_path, bundle, KINDS, OPTIONS)) == hashes(undisturbed)


def test_last_bits_that_networks_give_otherwise_with_other_threads_are_not_written(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    def certain(more: float) -> Network:
        def decode(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            raw = decoder(inputs)
            return raw | {"iou": (raw["iou"] * 0.7123 + more).astype(np.float32)}

        return decode

    first, second = (
        run_local(slide, tmp_path / str(more), bundle, KINDS, OPTIONS, decoder=certain(more)) for more in (0, 1.8e-7)
    )
    assert hashes(first) == hashes(second)
    table = pq.read_table(first.outputs[".parquet"])
    certainties = np.stack([table[name].to_numpy() for name in ("score", "predicted_iou")], axis=1)
    np.testing.assert_allclose(certainties * 1e4, np.rint(certainties * 1e4), atol=1e-2)
    assert len(np.unique(certainties[:, 1])) > 5


@pytest.mark.slow
def test_two_processes_divide_the_cores_of_one_folder(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    first, second = (start(slide, tmp_path, bundle, pause=0.3) for _ in range(2))
    for process in (first, second):
        process.join()
        assert process.exitcode == 0
    result = run_local(slide, tmp_path, bundle, KINDS, OPTIONS)
    assert hashes(result) == hashes(undisturbed)


@pytest.mark.parametrize("taken", ["a core", "the results"])
def test_a_slide_of_which_another_process_does_the_rest_is_left_to_it_unless_it_is_waited_for(
    taken: str, slide: Path, bundle: Path, tmp_path: Path
) -> None:
    job = job_of(slide, tmp_path, bundle)
    watcher = Counting()
    with closing(job), job.store.at_work() as (claims, _):
        assert claims.take(job.plan.cores[1].name if taken == "a core" else "join")
        with pytest.raises(Busy):
            run_local(slide, tmp_path, bundle, KINDS, OPTIONS, watcher=watcher, wait=False)
    others = 1 if taken == "a core" else 0
    assert len(watcher.cores) == len(found_files(tmp_path)) == len(job.plan.cores) - others
    run_local(slide, tmp_path, bundle, KINDS, OPTIONS, watcher=watcher, wait=False)
    assert sorted(watcher.cores) == sorted(core.name for core in job.plan.cores), "each once"


def test_only_the_last_process_at_work_clears_up(slide: Path, bundle: Path, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, KINDS, OPTIONS)
    (work,) = tmp_path.glob("*.work/*")
    draft = work / "settled" / ".pnseg-another.part"
    draft.write_bytes(b"half of a core")
    with Claims(work / "claims") as another:
        another.take("at-work-another")
        run_local(slide, tmp_path, bundle, KINDS, OPTIONS, keep_work=False)
        assert draft.exists(), "another process may be writing it"
    run_local(slide, tmp_path, bundle, KINDS, OPTIONS)
    assert not draft.exists()
    run_local(slide, tmp_path, bundle, KINDS, OPTIONS, keep_work=False)
    assert not work.exists()


def test_a_process_waits_for_what_another_has_claimed_and_takes_over_when_it_is_gone(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    process = start(slide, tmp_path, bundle, pause=30)
    while not list(tmp_path.glob(CORE_CLAIMS)):
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert list(tmp_path.glob(CORE_CLAIMS))
    assert hashes(run_local(slide, tmp_path, bundle, KINDS, OPTIONS)) == hashes(undisturbed)


@pytest.mark.parametrize("change", ["option", "bundle", "slide"])
def test_what_changes_the_result_starts_anew_with_a_message(
    change: str, slide: Path, bundle: Path, tmp_path: Path
) -> None:
    from tests.runtime.slide.local import write_bundle

    here = tmp_path / "slide.png"
    here.write_bytes(slide.read_bytes())
    run_local(here, tmp_path / "out", bundle, ("parquet",), OPTIONS)
    options, other = OPTIONS, bundle
    if change == "option":
        options = SlideOptions(mpp=0.25, core=192, tissue=False, margin=192)
    elif change == "bundle":
        other = write_bundle(tmp_path / "other", masking={"nms_iou": 0.4})
    else:
        changed = np.asarray(Image.open(here)).copy()
        changed[5, 5] ^= 1
        save_image(here, changed)
    watcher = Counting()
    result = run_local(here, tmp_path / "out", other, ("parquet",), options, watcher=watcher)
    assert {"option": "options.tissue", "bundle": "model.manifest_sha256", "slide": "slide"}[change] in watcher.anew
    assert len(watcher.cores) == len(found_files(tmp_path / "out")) > 1
    assert len([path for path in (tmp_path / "out").glob("*.work/*") if path.is_dir()]) == 1
    alone = run_local(here, tmp_path / "alone", other, ("parquet",), options)
    assert hashes(result) == hashes(alone)


def test_threads_and_kinds_of_output_are_no_change(slide: Path, bundle: Path, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS)
    watcher = Counting()
    with local_segmenter(bundle) as segmenter:
        run_slide(
            slide,
            tmp_path,
            Model(str(bundle), Options(threads=3)),
            OPTIONS,
            ("geojson",),
            watcher=watcher,
            segmenter=segmenter,
        )
    assert (watcher.cores, watcher.anew) == ([], None)
    assert (tmp_path / "slide.geojson").exists()


def test_other_options_are_refused_while_a_process_works(slide: Path, bundle: Path, tmp_path: Path) -> None:
    process = start(slide, tmp_path, bundle, pause=30)
    try:
        while not list(tmp_path.glob("*.work/*/claims/*.claim")):
            assert process.is_alive()
            time.sleep(0.02)
        with pytest.raises(OutputError, match="another process works here with other options"):
            run_local(slide, tmp_path, bundle, ("parquet",), SlideOptions(mpp=0.25, core=384, margin=192))
    finally:
        process.kill()
        process.join()


def test_of_two_jobs_with_different_options_that_start_together_one_is_refused_and_none_destroyed(
    slide: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [SlideOptions(mpp=0.25, core=core, margin=192) for core in (192, 384)]
    both, open_ = Barrier(2), Store._open

    def slow(store: Store) -> str | None:
        changed = open_(store)
        with contextlib.suppress(BrokenBarrierError):
            both.wait(2)  # for the other one to come as far, if it can
        return changed

    monkeypatch.setattr(Store, "_open", slow)

    def run(options: SlideOptions) -> SlideResult | str:
        try:
            return run_local(slide, tmp_path, bundle, ("parquet",), options)
        except OutputError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(run, plans), key=lambda each: isinstance(each, str))
    assert "another process works here with other options" in second
    assert len(found_files(tmp_path)) == first.cores


def test_a_process_that_joins_while_the_results_are_written_keeps_the_work(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    with ExitStack() as stack:

        class Joined(Watcher):
            def writing(self, part: str, done: int, of: int) -> None:
                if done == 0 and part == "outlines and table":
                    other = stack.enter_context(closing(job_of(slide, tmp_path, bundle)))
                    stack.enter_context(other.store.at_work())

        run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS, watcher=Joined(), keep_work=False)
        assert found_files(tmp_path) == found_files(undisturbed.run.parent)
    result = run_local(slide, tmp_path, bundle, KINDS, OPTIONS, keep_work=False)
    assert hashes(result) == hashes(undisturbed)
    assert not list(tmp_path.glob("*.work"))


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


OTHER = SlideOptions(mpp=0.25, core=192, margin=192, roi="0,0,300,300")


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


def test_a_failure_of_the_networks_ends_the_run_and_keeps_what_was_done(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    calls = []

    class Failing(Watcher):
        def core_done(self, done: CoreDone) -> None:
            calls.append(done)
            if len(calls) == 2:
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run_local(slide, tmp_path, bundle, KINDS, OPTIONS, watcher=Failing())
    assert len(found_files(tmp_path)) >= 2
    assert not list(tmp_path.glob("*.geojson"))
    assert not list(tmp_path.glob("*.work/*/claims/*.claim"))


def test_work_that_is_not_kept_is_removed(slide: Path, bundle: Path, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS, keep_work=False)
    assert not list(tmp_path.glob("*.work"))
    assert (tmp_path / "slide.parquet").exists()


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


def job_of(slide: Path, out: Path, bundle: Path) -> SlideJob:
    return prepare(slide, out, Model(str(bundle), Options()), OPTIONS)


def save_nothing_found(job: SlideJob, core: Core, unreadable: tuple = ()) -> None:
    none = PointPrompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    empty = np.zeros(0, np.float32), np.zeros((0, 4), np.int32), ()
    job.store.save_found(core, Found(core.view[:2], none, *empty, unreadable))


def test_the_same_command_started_twice_leaves_damaged_cores_alone_while_the_first_counts_on_them(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    first, second = (job_of(slide, tmp_path, bundle) for _ in range(2))
    cores = first.plan.cores
    with closing(first), closing(second), first.store.at_work():
        settler = Settler(first)
        for core in cores[:-1]:
            save_nothing_found(first, core, (((0, 0, 256, 256), "damaged"),) if core is cores[0] else ())
            settler.settle_around(core)
        said: list[str] = []
        with second.store.at_work(said.append):
            assert second.store.has_found(cores[0])
            save_nothing_found(first, cores[-1])
            settler.settle_around(cores[-1])
            settler.settle_rest()
        assert said == []
    with second.store.at_work(said.append):
        assert not second.store.has_found(cores[0])
        assert not any(map(second.store.has_settled, cores[:2])), "a neighbour was settled in the light of it"
        assert second.store.has_found(cores[-1])
    assert said == ["doing 1 cores with unreadable parts or damaged files again"]


def test_of_several_processes_that_start_together_one_forgets_damage_before_the_others_look(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    jobs = [job_of(slide, tmp_path, bundle) for _ in range(3)]
    core = jobs[0].plan.cores[0]
    save_nothing_found(jobs[0], core, (((0, 0, 256, 256), "damaged"),))
    everyone = Barrier(len(jobs))

    def work(job: SlideJob) -> bool:
        with closing(job), job.store.at_work():
            there = job.store.has_found(core)
            everyone.wait(10)
            return there

    with ThreadPoolExecutor(len(jobs)) as pool:
        assert not any(pool.map(work, jobs))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "gone"])
def test_a_damaged_file_of_a_core_is_done_again_by_the_same_command(
    damage: str, slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    path = sorted(out.glob("*.work/*/found/*.npz"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flipped": data, "truncated": data[: len(data) // 2], "empty": b""}[damage])
    watcher = Counting()
    result = run_local(slide, out, bundle, ("parquet",), OPTIONS, watcher=watcher)
    assert watcher.cores == [path.stem]
    assert result.outputs[".parquet"].read_bytes() == undisturbed.outputs[".parquet"].read_bytes()


@pytest.mark.parametrize("kind", ["found", "settled"])
def test_work_that_cannot_be_read_at_the_moment_is_kept(
    kind: str, slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    files = sorted(out.glob(f"*.work/*/{kind}/*"))
    job = job_of(slide, out, bundle)
    core = job.plan.cores[1]
    load_core = job.store.load_found if kind == "found" else job.store.load_settled

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with closing(job), monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        patched.setattr(pa, "OSFile", refuse)
        with pytest.raises(OutputError, match=r"cannot be read \(Input/output error\)"):
            load_core(core)
        if kind == "found":
            with pytest.raises(OutputError, match="cannot be read"), job.store.at_work():
                pass
    assert sorted(out.glob(f"*.work/*/{kind}/*")) == files
    assert load_core(core) is not None


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_file_of_a_core_is_either_read_as_it_was_or_called_damaged(place: float, bit: int, cut: bool) -> None:
    points = PointPrompts(np.array([[3, 4], [9, 9]], np.float32), np.array([0, 1]), np.array([0.5, 1], np.float32))
    boxes, masks = np.array([[1, 2, 7, 6]] * 2, np.int32), (np.eye(4, 6) > 0, np.ones((4, 6), bool))
    stream = io.BytesIO()
    save(Found((0, 0), points, np.ones(2, np.float32), boxes, masks, (), {"read": 1.0}), stream)
    data = bytearray(stream.getvalue())
    index = int(place * len(data))
    data[index] ^= 1 << bit
    try:
        found = load(bytes(data[:index] if cut else data))
    except ValueError:
        return
    assert [mask.tolist() for mask in found.masks] == [mask.tolist() for mask in masks]
    assert found.points.coords.tolist() == points.coords.tolist()


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


def test_work_of_an_older_format_is_removed_and_told_and_what_was_to_be_removed_is_not(tmp_path: Path) -> None:
    facts = {"slide": "a" * 64}
    store = Store(tmp_path, Plan((), 192, 512, "new", facts))
    (tmp_path / ".removed-another" / "found").mkdir(parents=True)
    assert store.open() is None
    (tmp_path / "old" / "found").mkdir(parents=True)
    (tmp_path / "old" / "plan.json").write_text(json.dumps(facts | {"path": "slide.svs"}))
    (tmp_path / "new" / "plan.json").write_text("[]")
    assert earlier_plans(tmp_path) == [("new", {}), ("old", facts | {"path": "slide.svs"})]
    assert store.open() == "an older format"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_auto_goes_on_with_the_backend_of_the_work_that_is_there_if_it_starts(
    slide: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fastest, broken = "onnxruntime", ""

    def opened(_: Bundle, options: Options, backend: str) -> Segmenter:
        asked.append(backend)
        if backend == broken:
            raise BackendError(f"{backend}: does not start.")
        return local_segmenter(bundle, options, backend=fastest if backend == "auto" else backend)

    def run() -> Counting:
        watcher = Counting()
        run_slide(slide, tmp_path, Model(str(bundle), Options(), "auto"), OPTIONS, ("parquet",), watcher=watcher)
        return watcher

    monkeypatch.setattr(networks, "Segmenter", opened)
    everything = run().cores
    sorted(tmp_path.glob("*.work/*/found/*.npz"))[1].unlink()
    fastest = "openvino"
    again = run()
    assert (len(again.cores), again.anew) == (1, None)
    assert asked == ["auto", "onnxruntime"], "what was begun needs no timing"
    broken = "onnxruntime"
    anew = run()
    assert anew.cores == everything
    assert anew.anew == "model.backend (onnxruntime → openvino)"
