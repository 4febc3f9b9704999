"""A real Ray with two workers, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime.errors import BackendError
from pnseg_runtime.options import Options
from pnseg_runtime.sessions import BACKENDS
from pnseg_runtime.slide import Model, SlideOptions, run_slide
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone
from tests.runtime.slide.local import hashes
from tests.runtime.slide.made import sample_mosaic, save_image

pytest.importorskip("openslide")
ray = pytest.importorskip("ray", reason="Ray is not installed")
from pnseg_runtime.slide import ray_engine  # noqa: E402 - it imports Ray
from pnseg_runtime.slide.ray_engine import RayEngine  # noqa: E402

KINDS = ("geojson", "parquet")


@pytest.fixture(scope="module", autouse=True)
def every_core():
    """Ray starts a dozen processes of its own; on the cores of one test process they take their time."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture(scope="module")
def cluster(every_core):
    """A Ray of two processors on this machine, which takes seconds to start."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Killer(Watcher):
    """Kills the process of an actor that works, the first to answer, when the first core is done."""

    def __init__(self) -> None:
        self.engine: RayEngine | None = None
        self.said: list[str] = []
        self.done_cores: list[str] = []
        self.killed = False

    def say(self, what: str) -> None:
        self.said.append(what)

    def core_done(self, done: CoreDone) -> None:
        self.done_cores.append(done.core.name)
        if not self.killed and self.engine is not None:
            self.killed = True
            # One that still starts would be lost before it had a core.
            answers = [actor.__ray_call__.remote(lambda _: os.getpid()) for actor in self.engine.actors]
            os.kill(ray.get(ray.wait(answers)[0][0]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_workers_one_of_them_killed_give_the_bytes_of_one_process(tmp_path: Path) -> None:
    slide = save_image(tmp_path / "slide.png", np.tile(sample_mosaic(), (1, 2, 1)))
    model, options = Model("nano", Options(threads=1)), SlideOptions(mpp=0.25, core=192, margin=192)
    alone = run_slide(slide, tmp_path / "alone", model, options, KINDS)
    killer = Killer()
    with RayEngine(model, workers=2) as engine:
        killer.engine = engine
        result = engine.run_slide(slide, tmp_path / "ray", options, KINDS, killer)
    assert killer.killed
    assert any("worker was lost" in each for each in killer.said), killer.said
    assert result.nuclei == alone.nuclei > 10
    assert hashes(result) == hashes(alone)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_for_which_there_is_no_room_gets_no_cores_and_auto_is_settled_by_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = save_image(tmp_path / "slide.png", np.tile(sample_mosaic(), (1, 2, 1)))
    model, options = Model("nano", Options(threads=1), "auto"), SlideOptions(mpp=0.25, core=192, margin=192)
    watcher = Killer()
    other = ray.remote(Counter).options(num_cpus=1).remote()
    ray.get(other.total.remote())
    with RayEngine(model, workers=2) as engine:
        result = engine.run_slide(slide, tmp_path / "ray", options, KINDS, watcher)
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.5)
    another = ray.remote(Counter).options(num_cpus=1).remote()
    ray.get(another.total.remote())
    with RayEngine(model, workers=1) as engine, pytest.raises(BackendError, match="no worker has started"):
        engine.run_slide(slide, tmp_path / "full", options, KINDS, watcher)
    assert [each for each in watcher.said if "workers run" in each] == ["1 of 2 workers run"]
    facts = json.loads(result.run.read_text())
    assert facts["model"]["backend"] in BACKENDS
    assert len(watcher.done_cores) == facts["cores"] > 1
