"""Processes that work on one slide divide its cores and do not destroy each other's work."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from pnseg_runtime.errors import OutputError
from pnseg_runtime.slide import Busy, SlideOptions, SlideResult
from pnseg_runtime.slide.claims import Claims
from pnseg_runtime.slide.job import SlideJob
from pnseg_runtime.slide.store import Store
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import Settler
from tests.runtime.slide.local import hashes, run_local
from tests.runtime.slide.resume.running import (
    CORE_CLAIMS,
    KINDS,
    OPTIONS,
    Counting,
    found_files,
    job_of,
    save_nothing_found,
    start,
)


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
            everyone.wait(60)
            return there

    with ThreadPoolExecutor(len(jobs)) as pool:
        assert not any(pool.map(work, jobs))
