"""The cores of slides on a Ray cluster: actors do them, this process plans, hands out and joins.

All machines see the output folder under one path. A core is saved by the actor that has done it, in
the same files as without Ray; only its name travels. So a run can be begun on one machine and ended
on a cluster, or the other way round.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pnseg_runtime.errors import BackendError, PnsegError
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide import finish
from pnseg_runtime.slide.core import find_nuclei
from pnseg_runtime.slide.job import Job, Model, prepare
from pnseg_runtime.slide.join import SlideResult
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.resolution import read_work
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone, Settler

IN_FLIGHT = 2  # cores an actor has at a time: one that it does, one that waits
TRIES = 3  # for a core whose actor was lost
_CPUS = 2  # of an actor on a machine without GPUs


@dataclass(frozen=True)
class Task:
    """A slide as an actor needs it.

    Attributes:
        slide: path on every machine.
        folder: of the outputs, likewise.
        options: how the slide is looked at.
        fingerprint: of the driver's plan; an actor that comes to another refuses.
    """

    slide: str
    folder: str
    options: SlideOptions
    fingerprint: str


class Actor:
    """Does cores; keeps the model and the last slide open."""

    def __init__(self, model: Model, threads: int) -> None:
        self._model = replace(model, options=replace(model.options, threads=model.options.threads or threads))
        self._segmenter: Segmenter | None = None
        self._task: Task | None = None
        self._job: Job | None = None
        self._settler: Settler | None = None

    def do(self, task: Task, name: str) -> CoreDone:
        """Do the core of that name and save it; settle what can be settled."""
        job, settler = self._open(task)
        core = next(core for core in job.plan.cores if core.name == name)
        if not job.store.has_found(core):
            start = time.perf_counter()
            reading = read_work(job.reader, job.resolution, core.view)
            seconds = time.perf_counter() - start
            assert self._segmenter is not None
            found = find_nuclei(reading, core, self._segmenter, job.resolution, job.area)
            job.store.save_found(core, replace(found, timings={"read": seconds, **(found.timings or {})}))
        settler.settle_around(core)
        return CoreDone.of(core, job.store.load_found(core))

    def _open(self, task: Task) -> tuple[Job, Settler]:
        if self._job is None or self._settler is None or self._task != task:
            if self._job is not None:
                self._job.close()
            self._job = prepare(Path(task.slide), Path(task.folder), self._model, task.options)
            if self._job.plan.fingerprint != task.fingerprint:
                raise BackendError(
                    f"{task.slide}: this machine comes to another plan than the one that leads the run; "
                    "see that all have the same file, bundle and version of pnseg."
                )
            self._segmenter = self._segmenter or Segmenter(self._job.bundle, self._model.options, self._model.backend)
            self._task, self._settler = task, Settler(self._job)
        return self._job, self._settler


class RayEngine:
    """Actors on a Ray cluster; as a context manager it lets go of them at the end."""

    def __init__(self, model: Model, workers: int | None = None, address: str | None = None) -> None:
        """Join a cluster, or start one on this machine.

        Args:
            model: what finds the nuclei.
            workers: actors; None for one a GPU, or one for two processors where there is none.
            address: of the cluster; None for the one this machine belongs to, or a new one.

        Raises:
            BackendError: there is no such cluster.
        """
        self._model = model
        self._mine = not ray.is_initialized()
        if self._mine:
            _join(address)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self._share: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": min(_CPUS, cpus)}
        self._count = workers or gpus or max(cpus // _CPUS, 1)
        if workers and not gpus:  # as many as were asked for, however few processors there are
            self._share = {"num_cpus": min(_CPUS, cpus / workers)}
        self._threads = max(int(self._share.get("num_cpus", _CPUS)), 1)
        self._actors = [self._start() for _ in range(self._count)]

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._mine:
            ray.shutdown()

    @property
    def actors(self) -> tuple[Any, ...]:
        """Handles of the actors that work now."""
        return tuple(self._actors)

    def run_slide(
        self,
        slide: Path,
        out: Path,
        options: SlideOptions,
        kinds: Sequence[str],
        watcher: Watcher | None = None,
        *,
        keep_work: bool = True,
    ) -> SlideResult:
        """As :func:`pnseg_runtime.slide.run_slide`, with the cores done by the actors.

        Raises:
            BackendError: a core was lost again and again, or an actor fails.
        """
        watcher = watcher or Watcher()
        start = time.perf_counter()
        job = prepare(slide, out, self._model, options, watcher.say)
        with closing(job), job.store.at_work(watcher.say) as claims:
            watcher.planned(job)
            seconds = {"prepare": time.perf_counter() - start}
            self._work(job, options, watcher)
            Settler(job).settle_rest()
            return finish(job, claims, kinds, watcher, seconds, start, keep_work=keep_work)

    def _start(self) -> Any:
        return ray.remote(Actor).options(max_restarts=0, **self._share).remote(self._model, self._threads)

    def _work(self, job: Job, options: SlideOptions, watcher: Watcher) -> None:
        """Hand out the cores, a few at a time; those of a lost actor go to another."""
        task = Task(str(job.slide.resolve()), str(job.folder.resolve()), options, job.plan.fingerprint)
        left = deque(core for core in job.plan.cores if not job.store.has_found(core))
        tries: Counter[str] = Counter()
        flying: dict[Any, tuple[int, Core]] = {}
        while left or flying:
            loads = Counter(place for place, _ in flying.values())
            for place in range(self._count):
                while left and loads[place] < IN_FLIGHT:
                    core = left.popleft()
                    flying[self._actors[place].do.remote(task, core.name)] = (place, core)
                    loads[place] += 1
            done, _ = ray.wait(list(flying), num_returns=1)
            place, core = flying.pop(done[0])
            try:
                watcher.core_done(ray.get(done[0]))
            except RayActorError:
                lost = [core, *(each for where, each in flying.values() if where == place)]
                flying = {ref: each for ref, each in flying.items() if each[0] != place}
                watcher.say(f"a worker was lost; its {len(lost)} cores go to others")
                tries.update(each.name for each in lost)
                if max(tries.values()) > TRIES:
                    raise BackendError(
                        f"{job.slide}: workers were lost {TRIES + 1} times at the same core; "
                        "see that they have memory enough, or choose smaller cores with --core."
                    ) from None
                left.extendleft(reversed([each for each in lost if not job.store.has_found(each)]))
                self._actors[place] = self._start()
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, PnsegError):
                    raise cause from None
                raise BackendError(f"{job.slide}: a worker failed ({type(cause).__name__}: {cause}).") from error


def _join(address: str | None) -> None:
    """Join the cluster at an address, or the one at hand, or start one here."""
    quiet: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
            return
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError:
            ray.init(**quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"{address or 'ray'}: no Ray cluster answers ({error}); start one with: ray start"
        ) from error
