"""Work in the background: a few threads, a queue that can be full, jobs that can be called off."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import BoundedSemaphore, Event
from typing import Any, Generic, TypeVar

from pnseg_runtime.errors import BackendError, PredictionCancelledError, QueueFullError

T = TypeVar("T")

#: What a job does; now and then it asks its argument whether it was called off.
Work = Callable[[Callable[[], bool]], T]

CLOSED = "This segmenter is closed; open the bundle again."


def require_own_process(opened_in: int) -> None:
    """Refuse a process forked from the one in which a segmenter was opened, where the networks' threads have stayed.

    Args:
        opened_in: number of that process.

    Raises:
        BackendError: this is another one.
    """
    if os.getpid() != opened_in:
        raise BackendError("This segmenter was opened before its process forked; open one in each process.")


class Job(Generic[T]):
    """A piece of work on its way. ``await job`` waits for it and leaves the event loop to others.

    Args:
        work: what to do; let go of as soon as the job is done or called off.
        ended: called then, once.
    """

    def __init__(self, work: Work[T], ended: Callable[[], None]) -> None:
        self._off = Event()
        self._future: Future[T] = Future()
        self._work: Work[T] | None = work
        self._future.add_done_callback(lambda _: self._let_go(ended))

    def _let_go(self, ended: Callable[[], None]) -> None:
        self._work = None  # and the image in it
        ended()

    def result(self, timeout: float | None = None) -> T:
        """What came out. Who is interrupted while waiting for it calls it off.

        Raises:
            PredictionCancelledError: the job was called off.
            TimeoutError: it is not done within ``timeout`` seconds.
            Exception: whatever the work raised.
        """
        try:
            return self._future.result(timeout)
        except CancelledError as error:
            raise PredictionCancelledError from error
        except (KeyboardInterrupt, SystemExit):  # nobody waits any more, but closing would
            self.cancel()
            raise

    def cancel(self) -> bool:
        """Call it off: at once if it still waits, before its next network if it runs.

        Returns:
            False if it had come to its end already.
        """
        if self.done() and not self._future.cancelled():
            return False
        self._off.set()
        self._future.cancel()
        return True

    def done(self) -> bool:
        """Whether it has a result or an error, or was called off while it waited."""
        return self._future.done()

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            return await asyncio.wrap_future(self._future)
        except asyncio.CancelledError:
            if self._off.is_set():
                raise PredictionCancelledError from None
            self.cancel()  # whoever waited for it was cancelled
            raise

    def run(self) -> None:
        """Do it, in the thread that calls, if it was not called off."""
        work = self._work
        if not self._future.set_running_or_notify_cancel() or work is None:
            return
        try:
            self._future.set_result(work(self._off.is_set))
        except BaseException as error:  # it is the waiting thread's to handle
            self._future.set_exception(error)


def _until_error(items: Iterable[T], ended: list[Exception]) -> Iterator[T]:
    """Items up to an error of their source's, which is put into ``ended``."""
    try:
        yield from items
    except Exception as error:  # it is for whoever takes the results, after them
        ended.append(error)


class Jobs(Generic[T]):
    """Threads that do jobs in the order they come.

    Args:
        workers: threads.
        queue: jobs that may wait for one.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pnseg")
        self._places = BoundedSemaphore(workers + queue)
        self._ahead = workers + queue
        self._closed = Event()
        self._process = os.getpid()

    def submit(self, work: Work[T], timeout: float | None = None) -> Job[T]:
        """Take on a job, waiting for a place in the queue.

        Args:
            work: what to do.
            timeout: seconds to wait at most, None for as long as it takes.

        Raises:
            QueueFullError: no place was free in time.
            BackendError: the jobs are closed, or those of the process that this one was forked from.
        """
        require_own_process(self._process)  # before the locks, which a fork may have left closed
        if not self._places.acquire(timeout=timeout):
            raise QueueFullError(
                f"All {self._ahead} places for images are taken; wait for a result, or open the segmenter with a "
                "longer queue."
            )
        job = Job(work, self._places.release)
        try:
            self._threads.submit(self._do, job)
        except RuntimeError as error:
            job.cancel()
            raise BackendError(CLOSED) from error
        return job

    def in_order(self, works: Iterable[Work[T]]) -> Iterator[T]:
        """The results of any number of works, in order; no more are taken on than there are places.

        Raises:
            Exception: whatever a work raised, when it is its turn; the works behind it are called off. What their
                source raised comes behind the results of those that it gave before.
        """
        waiting: deque[Job[T]] = deque()
        ended: list[Exception] = []
        try:
            for work in _until_error(works, ended):
                waiting.append(self.submit(work))
                if len(waiting) >= self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for job in waiting:
                job.cancel()
        if ended:
            raise ended[0]

    def close(self) -> None:
        """Call off what waits, and come to the end of what runs."""
        self._closed.set()
        self._threads.shutdown(wait=True)

    def _do(self, job: Job[T]) -> None:
        if self._closed.is_set():
            job.cancel()
        job.run()
