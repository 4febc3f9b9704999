"""The work on a slide: reading, networks and settling overlap, each core is saved when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from queue import Empty, Full, Queue
from typing import Any

from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide.claims import Claims
from pnseg_runtime.slide.core import Found, find_nuclei
from pnseg_runtime.slide.job import SlideJob
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.resolution import Look, read_seen
from pnseg_runtime.slide.settle import settle
from pnseg_runtime.slide.store import Store
from pnseg_runtime.slide.table import table_of

_AHEAD = 2  # views that wait for the networks, results that wait for the disk
_TICK = 0.2  # s between looks at whether something has gone wrong elsewhere
_POLL = 0.5  # s between looks at what other processes have done
_KEPT = 16  # cores whose results stay in memory for their neighbours

OnCore = Callable[["CoreDone"], None]


@dataclass(frozen=True)
class CoreDone:
    """A core that has been done.

    Attributes:
        core: which.
        nuclei: points that have a mask.
        pixels: work px of the core.
        unreadable: parts that could not be decoded.
    """

    core: Core
    nuclei: int
    pixels: int
    unreadable: int

    @classmethod
    def of(cls, core: Core, found: Found) -> CoreDone:
        x0, y0, x1, y1 = core.core
        return cls(core, int((found.ious > 0).sum()), (x1 - x0) * (y1 - y0), len(found.unreadable))


@dataclass
class Waits:
    """Seconds that each part of the work has waited for another, and has worked.

    Attributes:
        seconds: stage → seconds.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Busy(Exception):  # noqa: N818 - no error: there is nothing to do at the moment
    """Other processes do what is left of a slide."""


class _Stopped(Exception):  # noqa: N818 - no error: a thread is asked to end
    """Another thread has failed or the run is over."""


class Line:
    """Bounded queues between threads that all stop when one of them fails."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []

    def put(self, queue: Queue[Any], item: object) -> None:
        while not self.stop.is_set():
            try:
                return queue.put(item, timeout=_TICK)
            except Full:  # noqa: PERF203
                continue
        raise _Stopped

    def get(self, queue: Queue[Any]) -> Any:
        while not self.stop.is_set():
            try:
                return queue.get(timeout=_TICK)
            except Empty:  # noqa: PERF203
                continue
        raise _Stopped

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        def guarded() -> None:
            try:
                target()
            except _Stopped:
                pass
            except BaseException as error:  # told to the main thread, which raises it
                self.errors.append(error)
                self.stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread


def work_on(
    job: SlideJob, segmenter: Segmenter, claims: Claims, on_core: OnCore = lambda _: None, *, wait: bool = True
) -> dict[str, float]:
    """Do every core of a slide that nobody has done or is doing, and settle what can be settled.

    Returns only when all cores are done, by whomever. Other processes may work on the same folder.

    Args:
        job: the slide.
        segmenter: the model.
        claims: of this process.
        on_core: is told of every core that this process has done.
        wait: for the cores that others are doing.

    Returns:
        Stage → seconds that this process has spent or waited.

    Raises:
        Busy: what is left is in the hands of others, for whom it does not wait.
        OutputError: the disk fails.
        BackendError: the networks fail.
    """
    waits, line = Waits(), Line()
    views: Queue[tuple[Core, Look, float] | None] = Queue(_AHEAD)
    results: Queue[tuple[Core, Found] | None] = Queue(_AHEAD)

    def read() -> None:
        for core in _to_do(job.store, claims, line, wait):
            start = time.perf_counter()
            with waits("read"):
                look = read_seen(job.reader, job.resolution, core.view, job.blurs)
            seconds = time.perf_counter() - start
            with waits("read waits"):
                line.put(views, (core, look, seconds))
        line.put(views, None)

    def finish() -> None:
        settler = Settler(job)
        while (item := line.get(results)) is not None:
            core, found = item
            with waits("save"):
                job.store.save_found(core, found)
                claims.release(core.name)
            on_core(CoreDone.of(core, found))
            with waits("settle"):
                settler.settle_around(core)
        with waits("settle"):
            settler.settle_rest(wait=wait)

    reader, finisher = line.thread(read, "read"), line.thread(finish, "finish")
    try:
        while True:
            with waits("networks wait"):
                item = line.get(views)
            if item is None:
                break
            core, look, seconds = item
            with waits("networks"):
                found = find_nuclei(look, core, segmenter, job.resolution, job.area)
            found = replace(found, timings={"read": seconds, **(found.timings or {})})
            with waits("networks wait for disk"):
                line.put(results, (core, found))
        line.put(results, None)
    except _Stopped:
        pass
    except BaseException:
        line.stop.set()
        raise
    finally:
        if line.stop.is_set():
            reader.join()
        finisher.join()
    reader.join()
    if line.errors:
        raise line.errors[0]
    if not (wait or job.store.all_done()):
        raise Busy
    return waits.seconds


def _to_do(store: Store, claims: Claims, line: Line, wait: bool) -> Iterator[Core]:
    """Cores that are nobody's yet, claimed; ends when all are done or in this process's hands, or others' if not wait.

    Others' may become free, where their process is lost.
    """
    left = list(store.plan.cores)
    while left:
        taken = False
        after: list[Core] = []
        for core in left:
            if line.stop.is_set():
                raise _Stopped
            if store.has_found(core):
                continue
            if not claims.take(core.name):
                after.append(core)
            elif store.has_found(core):  # done between the two looks
                claims.release(core.name)
            else:
                taken = True
                yield core
        left = after
        if left and not taken:
            if not wait:
                return
            time.sleep(_POLL)


class Settler:
    """Settles cores whose neighbours are all done."""

    def __init__(self, job: SlideJob) -> None:
        self._job = job
        self._plan, self._store = job.plan, job.store
        self._load = lru_cache(maxsize=_KEPT)(job.store.load_found)
        self._missing = set(job.plan.cores)

    def settle_around(self, core: Core) -> None:
        """Settle a core that has just been done, and its neighbours, as far as possible."""
        for near in self._plan.neighbours(core):
            self._settle(near)

    def settle_rest(self, *, wait: bool = True) -> None:
        """Settle everything that is left; all cores have to be done, or are waited for."""
        for core in self._plan.cores:
            while not self._settle(core) and wait:
                time.sleep(_POLL)

    def _settle(self, core: Core) -> bool:
        if self._store.has_settled(core):
            return True
        around = self._plan.neighbours(core)
        self._missing -= {near for near in around if near in self._missing and self._store.has_found(near)}
        if not self._missing.isdisjoint(around):
            return False
        found = [self._load(near) for near in around]
        settled = settle(found, around.index(core), core.core, self._plan.reach, self._job.settings)
        table = table_of(settled, self._job.resolution, self._job.bundle.manifest.class_table)
        self._store.save_settled(core, table)
        return True
