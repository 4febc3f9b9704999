"""Runs of a slide that are watched, stopped and taken up again."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np

from pnseg_runtime.options import Options
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.slide import Model, SlideOptions, SlideResult
from pnseg_runtime.slide.core import Found
from pnseg_runtime.slide.job import SlideJob, prepare
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone
from tests.runtime.slide.local import run_local

KINDS = ("geojson", "geojson.gz", "parquet", "labels", "pictures")
OPTIONS = SlideOptions(mpp=0.25, core=192, margin=192)
CORE_CLAIMS = "*.work/*/claims/[0-9]*.claim"


# A server without threads, with everything imported, forks a process in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.runtime.slide.local", "zarr", "pyarrow.parquet"])


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


OTHER = SlideOptions(mpp=0.25, core=192, margin=192, roi="0,0,300,300")


def job_of(slide: Path, out: Path, bundle: Path) -> SlideJob:
    return prepare(slide, out, Model(str(bundle), Options()), OPTIONS)


def save_nothing_found(job: SlideJob, core: Core, unreadable: tuple = ()) -> None:
    none = PointPrompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    empty = np.zeros(0, np.float32), np.zeros((0, 4), np.int32), ()
    job.store.save_found(core, Found(core.view[:2], none, *empty, unreadable))
