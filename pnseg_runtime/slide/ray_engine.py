"""The cores of slides on a Ray cluster: actors do them, this process plans, hands out and joins.

All machines see the output folder under one path. A core is saved by the actor that has done it, in
the same files as without Ray; only its name travels. So a run can be begun on one machine and ended
on a cluster, or the other way round.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pnseg_runtime.errors import BackendError, PnsegError, one_line
from pnseg_runtime.slide import done_before, finish
from pnseg_runtime.slide.core import find_nuclei
from pnseg_runtime.slide.job import Model, SlideJob, at_work, plan_slide, prepare
from pnseg_runtime.slide.join import SlideResult
from pnseg_runtime.slide.networks import Networks
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.resolution import read_seen
from pnseg_runtime.slide.rivals import refuse_replacing, refuse_rivals
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone, Settler

IN_FLIGHT = 2  # cores an actor has at a time: one that it does, one that waits
TRIES = 3  # for a core whose actor was lost, and for actors that do not start
PATIENCE = 600.0  # s that a cluster may take to start the first worker, or the next where all were lost
_CPUS = 2  # of an actor on a machine without GPUs


@dataclass(frozen=True)
class Task:
    """A slide as an actor needs it.

    Attributes:
        slide: path on every machine.
        folder: of the outputs, likewise.
        model: what finds the nuclei, with a backend in place of ``auto``.
        options: how the slide is looked at.
        fingerprint: of the driver's plan; an actor that comes to another refuses.
    """

    slide: str
    folder: str
    model: Model
    options: SlideOptions
    fingerprint: str


class Actor:
    """Does cores; keeps the model and the last slide open."""

    def __init__(self, model: Model, threads: int) -> None:
        self._threads = threads
        self._networks = Networks(self._here(model))
        self._task: Task | None = None
        self._job: SlideJob | None = None
        self._settler: Settler | None = None

    def ping(self) -> None:
        """Answer: this actor has found its place on a machine and runs."""

    def choose(self) -> tuple[str, str, str, tuple[str, ...]]:
        """What ``auto`` stands for here: backend, precision, why it is this one, what was passed over."""
        found = self._networks.segmenter(self._networks.choose())
        return found.backend, found.precision, found.reason, found.passed_over

    def starts(self, model: Model) -> bool:
        """Whether a model's backend starts here."""
        return self._networks.starts(self._here(model))

    def start(self, model: Model) -> None:
        """Open a model, or raise what keeps it from that."""
        self._networks.segmenter(self._here(model))

    def do(self, task: Task, name: str) -> CoreDone:
        """Do the core of that name and save it; settle what can be settled."""
        job, settler = self._open(task)
        core = next(core for core in job.plan.cores if core.name == name)
        if not job.store.has_found(core):
            start = time.perf_counter()
            look = read_seen(job.reader, job.resolution, core.view, job.blurs)
            seconds = time.perf_counter() - start
            segmenter = self._networks.segmenter(self._here(task.model))
            found = find_nuclei(look, core, segmenter, job.resolution, job.area)
            job.store.save_found(core, replace(found, timings={"read": seconds, **(found.timings or {})}))
        settler.settle_around(core)
        return CoreDone.of(core, job.store.load_found(core))

    def _open(self, task: Task) -> tuple[SlideJob, Settler]:
        if self._job is None or self._settler is None or self._task != task:
            if self._job is not None:
                self._job.close()
            self._job = prepare(Path(task.slide), Path(task.folder), task.model, task.options)
            if self._job.plan.fingerprint != task.fingerprint:
                raise BackendError(
                    f"{task.slide}: this machine comes to another plan than the one that leads the run; "
                    "see that all have the same file, bundle and version of pnseg."
                )
            self._task, self._settler = task, Settler(self._job)
        return self._job, self._settler

    def _here(self, model: Model) -> Model:
        """The model with this actor's threads."""
        return replace(model, options=replace(model.options, threads=model.options.threads or self._threads))


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
        if workers:  # as many as were asked for, however few GPUs or processors there are
            # Parts of one GPU, as no actor gets parts of two.
            self._share = {"num_gpus": 1 / -(-workers // gpus)} if gpus else {"num_cpus": min(_CPUS, cpus / workers)}
        self._threads = max(int(self._share.get("num_cpus", _CPUS)), 1)
        self._pings: dict[Any, int] = {}  # what an actor has not answered yet → its place
        self._answered: set[int] = set()
        self._failed = 0
        self._chosen: tuple[str, str] | None = None  # what auto stands for
        self._actors = [self._start(place) for place in range(self._count)]

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
        overwrite: bool = True,
        keep_work: bool = True,
    ) -> SlideResult:
        """As :func:`pnseg_runtime.slide.run_slide`, with the cores done by the actors.

        Raises:
            BackendError: a core was lost again and again, or an actor fails.
        """
        watcher = watcher or Watcher()
        start = time.perf_counter()
        chooser = _Chooser(self, self._model, watcher)
        with closing(plan_slide(slide, out, self._model, options, watcher.say, chooser)) as planned:
            if (result := done_before(planned, kinds, watcher)) is not None:
                return result
            refuse_rivals(planned)
            if not overwrite:
                refuse_replacing(planned, kinds)
            if not planned.store.all_done():  # what others have found is kept where the networks do not start
                self.ask("start", watcher, planned.model)
            with at_work(planned, watcher.say) as (job, claims):
                watcher.planned(job)
                seconds = {"prepare": time.perf_counter() - start}
                self._work(job, options, watcher)
                Settler(job).settle_rest()
                return finish(job, claims, kinds, watcher, seconds, start, keep_work=keep_work)

    def settle_auto(self, watcher: Watcher) -> tuple[str, str]:
        """Backend and precision that ``auto`` stands for on a worker, the same for all slides.

        Raises:
            BackendError: none works there, or no worker starts.
        """
        if self._chosen is None:
            backend, precision, reason, passed_over = self.ask("choose", watcher)
            watcher.chosen(reason, passed_over)
            self._chosen = backend, precision
        return self._chosen

    def ask(self, method: str, watcher: Watcher, *arguments: object) -> Any:
        """Ask a worker that runs, waiting for the first one.

        Raises:
            BackendError: none starts, or it fails.
        """
        while not self._answered:
            self._hear(self._wait(self._pings), watcher)
        place = min(self._answered)
        try:
            return ray.get(getattr(self._actors[place], method).remote(*arguments))
        except RayActorError as error:
            raise BackendError(f"{method}: the worker that was asked was lost; run the same command again.") from error
        except RayTaskError as error:
            raise _failure(error, method) from error

    def _start(self, place: int) -> Any:
        actor: Any = ray.remote(Actor).options(max_restarts=0, **self._share).remote(self._model, self._threads)
        self._pings[actor.ping.remote()] = place
        return actor

    def _wait(self, refs: Iterable[Any], forever: bool = False) -> Any:
        """The first of some answers."""
        done, _ = ray.wait(list(refs), num_returns=1, timeout=None if forever else PATIENCE)
        if not done:
            share = ", ".join(f"{number:g} {kind.removeprefix('num_')}" for kind, number in self._share.items())
            raise BackendError(
                f"ray: no worker has started in {PATIENCE / 60:g} minutes; no machine of the cluster may have {share} "
                "free: see ray status, and end what takes them or choose another number of --workers."
            )
        return done[0]

    def _hear(self, ping: Any, watcher: Watcher) -> None:
        """An actor has answered, or cannot start: then another takes its place."""
        place = self._pings.pop(ping)
        try:
            ray.get(ping)
        except RayError as error:
            self._failed += 1
            if self._failed > TRIES:
                raise BackendError(f"ray: workers do not start ({one_line(error)}).") from error
            self._actors[place] = self._start(place)
            return
        self._answered.add(place)
        watcher.say(f"{len(self._answered)} of {self._count} workers run")

    def _work(self, job: SlideJob, options: SlideOptions, watcher: Watcher) -> None:
        """Hand out the cores to actors that run, a few at a time; those of a lost actor go to another.

        An actor for which the cluster has no room would keep what it is handed for ever.
        """
        task = Task(str(job.slide.resolve()), str(job.folder.resolve()), job.model, options, job.plan.fingerprint)
        left = deque(core for core in job.plan.cores if not job.store.has_found(core))
        tries: Counter[str] = Counter()
        flying: dict[Any, tuple[int, Core]] = {}
        while left or flying:
            loads = Counter(place for place, _ in flying.values())
            for place in sorted(self._answered):
                while left and loads[place] < IN_FLIGHT:
                    core = left.popleft()
                    flying[self._actors[place].do.remote(task, core.name)] = (place, core)
                    loads[place] += 1
            done = self._wait([*flying, *self._pings], forever=bool(flying))
            if done in self._pings:
                self._hear(done, watcher)
                continue
            place, core = flying.pop(done)
            try:
                watcher.core_done(ray.get(done))
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
                self._answered.discard(place)
                self._actors[place] = self._start(place)
            except RayTaskError as error:
                raise _failure(error, job.slide) from error


class _Chooser:
    """Settles ``auto`` on the workers: the process that leads them may have no GPU."""

    def __init__(self, engine: RayEngine, model: Model, watcher: Watcher) -> None:
        self._engine, self._model, self._watcher = engine, model, watcher

    def choose(self) -> Model:
        return self._model.on(*self._engine.settle_auto(self._watcher))

    def starts(self, model: Model) -> bool:
        return bool(self._engine.ask("starts", self._watcher, model))


def _failure(error: RayTaskError, what: object) -> PnsegError:
    """What has failed on a worker, as an error of this process."""
    cause = error.cause
    if isinstance(cause, PnsegError):
        return cause
    return BackendError(f"{what}: a worker failed ({type(cause).__name__}: {cause}).")


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
