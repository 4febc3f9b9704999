"""A real Ray with two workers, one of them killed in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime.options import Options
from pnseg_runtime.slide import Model, SlideOptions, run_slide
from pnseg_runtime.slide.join import hashes
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone
from tests.runtime.slide.made import sample_mosaic, save_image

pytest.importorskip("openslide")
ray = pytest.importorskip("ray", reason="Ray is not installed")
from pnseg_runtime.slide.ray_engine import RayEngine  # noqa: E402 - it imports Ray

KINDS = ("geojson", "parquet")


class Killer(Watcher):
    """Kills the process of the first actor when the first core is done."""

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
            os.kill(ray.get(self.engine.actors[0].__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


@pytest.mark.slow
def test_two_workers_one_of_them_killed_give_the_bytes_of_one_process(tmp_path: Path) -> None:
    slide = save_image(tmp_path / "slide.png", np.tile(sample_mosaic(), (1, 2, 1)))
    model, options = Model("nano", Options(threads=1)), SlideOptions(mpp=0.25, core=192)
    alone = run_slide(slide, tmp_path / "alone", model, options, KINDS)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killer = Killer()
    try:
        with RayEngine(model, workers=2) as engine:
            killer.engine = engine
            result = engine.run_slide(slide, tmp_path / "ray", options, KINDS, killer)
    finally:
        ray.shutdown()
    assert killer.killed
    assert any("worker was lost" in each for each in killer.said)
    assert result.nuclei == alone.nuclei > 10
    assert hashes(result) == hashes(alone)
