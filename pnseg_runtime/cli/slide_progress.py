"""How ``pnseg slide`` gets on: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pnseg_runtime.cli.log import LOGGER
from pnseg_runtime.cli.model_options import tell_choice
from pnseg_runtime.slide import SlideResult
from pnseg_runtime.slide.job import SlideJob
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone

_SILENCE = 60.0  # s without a line that nobody has to bear


def printable(text: str) -> str:
    """Text with the bytes of a name that are no UTF-8 escaped, as streams refuse them."""
    return text.encode(errors="backslashreplace").decode()


class Display(Watcher):
    """A progress bar on a terminal, lines elsewhere: one a slide, and one a minute while it is worked on."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._told = clock()  # when the last line was printed
        self._kept: SlideResult | None = None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # names of slides may hold [brackets]
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name, self._total, self._before = "", 0, 0
        self._mm2_a_pixel = 0.0
        self._start, self._nuclei, self._pixels, self._mine = 0.0, 0, 0, 0
        self._left_pixels = 0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _get_on(self, how: str) -> None:
        """Print how it gets on, where there is no bar and nothing was printed for a while."""
        if not self._console.is_terminal and self._clock() - self._told >= _SILENCE:
            self._tell(f"{self._name}: {how}")

    def clear(self) -> None:
        """Take the bar of a slide that has failed away."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def say(self, what: str) -> None:
        LOGGER.info("%s", what)
        if self._task is not None:
            self._progress.update(self._task, rates=what)

    def chosen(self, reason: str, passed_over: tuple[str, ...]) -> None:
        self.clear()
        tell_choice(reason, passed_over)

    def planned(self, job: SlideJob) -> None:
        self.clear()
        if job.started_anew is not None:
            self._tell(f"{job.slide.name}: starting anew, as this has changed: {job.started_anew}")
        cores = job.plan.cores
        todo = [core for core in cores if not job.store.has_found(core)]
        self._name, self._total, self._before = job.slide.name, len(cores), len(cores) - len(todo)
        if self._before and todo:
            self._tell(f"{job.slide.name}: going on after {self._before} of {len(cores)} cores")
        self._mm2_a_pixel = (job.resolution.work_mpp / 1000) ** 2
        self._start, self._nuclei, self._pixels, self._mine = self._clock(), 0, 0, 0
        self._left_pixels = sum((c.core[2] - c.core[0]) * (c.core[3] - c.core[1]) for c in todo)
        self._task = self._progress.add_task(self._name, total=self._total, completed=self._before, rates="")

    def core_done(self, done: CoreDone) -> None:
        self._mine += 1
        self._nuclei += done.nuclei
        self._pixels += done.pixels
        self._left_pixels -= done.pixels
        if self._task is not None:
            self._progress.update(self._task, completed=self._before + self._mine, rates=self._rates())
        self._get_on(f"{self._before + self._mine} of {self._total} cores  {self._rates()}")

    def _rates(self) -> str:
        seconds = max(self._clock() - self._start, 1e-9)
        speed = self._pixels * self._mm2_a_pixel / seconds * 60
        left = int(self._left_pixels * self._mm2_a_pixel / max(speed, 1e-9) * 60)
        return f"{self._nuclei / seconds:,.0f} nuclei/s  {speed:,.1f} mm²/min  {left // 60}:{left % 60:02d} left"

    def writing(self, part: str, done: int, of: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=f"{self._name}: {part}", total=of, completed=done, rates="")
        self._get_on(f"{part}, {done} of {of}")

    def current(self, result: SlideResult) -> None:
        self._kept = result
        self._tell(f"{result.slide.name}: is done already, its results are kept ({result.run})")

    def done(self, result: SlideResult) -> None:
        self.clear()
        if result is not self._kept and not self._console.is_terminal:
            self._tell(f"{result.slide.name}: done, {result.nuclei:,} nuclei in {result.area_mm2:.3f} mm²")

    def _tell(self, sentence: str) -> None:
        self._told = self._clock()
        self._console.print(Text(printable(sentence)), soft_wrap=True)  # a log has no width
