"""Where the time goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

STAGES = ("prepare", "prompter", "points", "encoder", "decoder", "masks", "total")


class Clock:
    """Adds up the seconds spent in each stage of a prediction.

    Attributes:
        seconds: stage → seconds, for every one of :data:`STAGES`.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - start
