"""Where the time goes, and whether there is still a reason to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from pnseg_runtime.errors import PredictionCancelledError

STAGES = ("prepare", "prompter", "points", "encoder", "decoder", "masks", "total")


def never() -> bool:
    """Of a prediction that nobody calls off."""
    return False


def go_on_unless(cancelled: Callable[[], bool]) -> None:
    """Ask whether a prediction has been called off.

    Raises:
        PredictionCancelledError: it has.
    """
    if cancelled():
        raise PredictionCancelledError


class Clock:
    """Adds up the seconds spent in each stage of a prediction, and begins none when it is called off.

    Args:
        cancelled: asked before every stage.

    Attributes:
        seconds: stage → seconds, for every one of :data:`STAGES`.
    """

    def __init__(self, cancelled: Callable[[], bool] = never) -> None:
        self._cancelled = cancelled
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        go_on_unless(self._cancelled)
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - start
