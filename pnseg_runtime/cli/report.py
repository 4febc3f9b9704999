"""What a run tells: one row an image, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    """

    image: Path
    size: tuple[int, int]
    nuclei: int
    seconds: float
    outputs: dict[str, Path]
    enlarged: float = 1.0

    @property
    def megapixels(self) -> float:
        return self.size[0] * self.size[1] / 1e6


@dataclass(frozen=True)
class Failed:
    """An image that was not segmented, and why."""

    image: Path
    error: str


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


def print_json(document: Any) -> None:
    """Print a JSON document on standard output, in escapes if its encoding has not all characters."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal that is not
        text = json.dumps(document, indent=2)
    print(text)


def summary(bundle: str, done: Sequence[Done], failed: Sequence[Failed]) -> dict[str, Any]:
    """The run as JSON values: sizes in px, times in seconds."""
    return {
        "bundle": bundle,
        "images": [
            {
                "image": str(row.image),
                "width": row.size[1],
                "height": row.size[0],
                "nuclei": row.nuclei,
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
