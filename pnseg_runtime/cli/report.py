"""What a run tells: one row an image, as a table or as JSON."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pnseg_runtime.errors import OutputError

#: Where microns per pixel come from: the user, the file's metadata, or the size of the nuclei.
MppSource = Literal["given", "file", "guessed"]

_ENDLESS = 10_000  # columns: a pipe has no width, and a file name must not be folded in a log


@dataclass(frozen=True)
class Done:
    """An image that was segmented and written.

    Attributes:
        image: its path.
        size: (height, width), px.
        nuclei: how many were found.
        seconds: time of the prediction, without reading and writing files.
        outputs: kind → file.
        enlarged: how many times it was enlarged, since it states no resolution and its nuclei are small.
        mpp: microns per pixel it was seen with, None where it was taken as it is.
        mpp_source: where these come from.
        median_diameter: of its nuclei, µm; None without any, or without microns per pixel that are more than a guess.
        doubt: one sentence if nuclei of this size mean that the microns per pixel are wrong.
        classes: class → nuclei.
        timings: stage → seconds.
    """

    image: Path
    size: tuple[int, int]
    nuclei: int
    seconds: float
    outputs: dict[str, Path]
    enlarged: float = 1.0
    mpp: float | None = None
    mpp_source: MppSource | None = None
    median_diameter: float | None = None
    doubt: str | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def megapixels(self) -> float:
        return self.size[0] * self.size[1] / 1e6


@dataclass(frozen=True)
class Failed:
    """An image that was not segmented, and why."""

    image: Path
    error: str


def logged(row: Done, model_mpp: float) -> str:
    """What the log tells of an image.

    Args:
        row: the image.
        model_mpp: microns per pixel of the model.
    """
    height, width = row.size
    seen = "resolution unknown, taken as it is"
    if row.mpp is not None:
        seen = f"{row.mpp:g} µm per pixel ({row.mpp_source}), {row.mpp / model_mpp:.3g} times the model's"
    guess = f", enlarged {row.enlarged:g} times on a guess" if row.enlarged > 1 else ""
    stages = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in row.timings.items() if stage != "total")
    return f"{row.image}: {width}×{height} px, {seen}{guess}: {row.nuclei} nuclei in {row.seconds:.3f} s ({stages})"


@contextmanager
def summary_printed(folder: Path) -> Iterator[None]:
    """See that what is printed inside arrives on standard output.

    Args:
        folder: of the results, which are written already.

    Raises:
        OutputError: it does not.
    """
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has had enough
            raise
        _drop_output()
        raise OutputError(
            f"standard output: cannot be written ({error.strerror or error}); the results that were made are in "
            f"{folder}."
        ) from error


def _drop_output() -> None:
    """Let go of what is in standard output's buffer, of which the process would complain again at its end."""
    with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def print_table(done: Sequence[Done]) -> None:
    """Print image, size, nuclei, seconds and throughput on standard output; framed on a terminal only."""
    console = Console(highlight=False)
    framed = console.is_terminal
    if not framed:
        console.width = _ENDLESS
    table = Table(box=box.SIMPLE_HEAD if framed else None, show_edge=False, pad_edge=False)
    table.add_column("image", overflow="fold")
    for heading in ("size (px)", "nuclei", "seconds", "Mpx/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in done:
        width, height = row.size[1], row.size[0]
        name = Text(row.image.name)  # no markup: a name may hold [brackets] and :colons:
        table.add_row(name, f"{width}×{height}", *_figures(row.nuclei, row.seconds, row.megapixels))
    if len(done) > 1:
        table.add_section()
        totals = sum(r.nuclei for r in done), sum(r.seconds for r in done), sum(r.megapixels for r in done)
        table.add_row(f"{len(done)} images", "", *_figures(*totals), style="bold")
    console.print(table)
    if guessed := [row for row in done if row.enlarged > 1]:
        console.print(
            f"Seen {guessed[0].enlarged:g} times enlarged, since they state no resolution and their nuclei are small "
            f"(--mpp model leaves that): {', '.join(row.image.name for row in guessed)}",
            markup=False,
            emoji=False,
        )


def summary(run: Mapping[str, str], done: Sequence[Done], failed: Sequence[Failed]) -> dict[str, Any]:
    """The run as JSON values: sizes in px, times in seconds.

    Args:
        run: what holds for all images.
        done: those that were segmented.
        failed: those that were not.
    """
    return {
        **run,
        "images": [
            {
                "image": str(row.image),
                "width": row.size[1],
                "height": row.size[0],
                "nuclei": row.nuclei,
                "nuclei_of_class": dict(row.classes),
                "mpp": row.mpp,
                "mpp_source": row.mpp_source,
                "median_diameter_um": row.median_diameter and round(row.median_diameter, 3),
                "doubt": row.doubt,
                "seconds": round(row.seconds, 4),
                "enlarged": row.enlarged,
                "outputs": {kind: str(path) for kind, path in row.outputs.items()},
            }
            for row in done
        ],
        "failed": [{"image": str(row.image), "error": row.error} for row in failed],
    }


def _figures(nuclei: int, seconds: float, megapixels: float) -> tuple[str, str, str]:
    return f"{nuclei:,}", f"{seconds:.2f}", f"{megapixels / seconds:.2f}" if seconds > 0 else "–"
