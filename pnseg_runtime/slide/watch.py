"""Who wants to know how a run gets on: by default nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pnseg_runtime.slide.job import SlideJob
    from pnseg_runtime.slide.join import SlideResult
    from pnseg_runtime.slide.work import CoreDone


class Watcher:
    """Is told of everything that happens to a slide, from any thread; does nothing with it."""

    def say(self, what: str) -> None:
        """Something is being done that takes a moment."""

    def chosen(self, reason: str, passed_over: tuple[str, ...]) -> None:
        """``auto`` has chosen a backend: why it is this one, and what was passed over for which reasons."""

    def planned(self, job: SlideJob) -> None:
        """A slide is ready to be worked on."""

    def core_done(self, done: CoreDone) -> None:
        """A core has been done."""

    def writing(self, part: str, done: int, of: int) -> None:
        """An output is being written."""

    def current(self, result: SlideResult) -> None:
        """A slide's results were there already, and none of them is written again."""

    def done(self, result: SlideResult) -> None:
        """A slide is done."""
