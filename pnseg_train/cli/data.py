"""``pnseg data``: what a data set is and whether it is fit for training."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from pnseg_runtime.documents import print_json
from pnseg_runtime.outputs.atomic import all_or_none, make_folder
from pnseg_train.datasets.check import FATAL, Counts, Report, check
from pnseg_train.datasets.layouts import Layout, layout_of
from pnseg_train.datasets.sample import Sample
from pnseg_train.datasets.sheet import contact_sheet, draw_cell

EXAMPLES = """
\b
Examples:
  pnseg data check PanNuke/
  pnseg data check MoNuSeg/ --out look
  pnseg data check my_folder/ --json > report.json
"""

CELLS = 12  # on the contact sheet
SHOWN = 3  # findings of a kind that are printed in full


@click.group()
def data() -> None:
    """Data sets: PanNuke, Kumar, MoNuSeg, CPM-17, CoNSeP, DSB 2018 or a plain folder."""


@data.command("check", epilog=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("pnseg-out"),
    show_default=True,
    help="Folder of the contact sheet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
@click.pass_context
def check_command(ctx: click.Context, path: Path, out: Path, as_json: bool) -> None:
    """Name the layout of PATH, read all of it, draw a contact sheet and report what is wrong.

    The exit code is 1 if sizes do not match, a file cannot be read, or images of one group or the
    same image stand in two splits.
    """
    layout = layout_of(path)
    make_folder(out)
    gallery = Gallery(len(layout.read(path, None)))
    report = check(layout, path, gallery.look)
    sheet = out / f"{path.resolve().name}.check.png"
    if gallery.cells:
        with all_or_none([sheet]) as (stream,):
            Image.fromarray(contact_sheet(gallery.cells)).save(stream, format="PNG")
    if as_json:
        print_json(document(layout, path, report, sheet if gallery.cells else None))
    else:
        print_report(layout, report)
        if gallery.cells:
            click.echo(f"{sheet}: look whether the outlines lie on the nuclei.")
    ctx.exit(0 if report.sound else 1)


class Gallery:
    """Evenly chosen samples, drawn as they pass by."""

    def __init__(self, number: int):
        self.every, self.passed = max(-(-number // CELLS), 1), 0
        self.cells: list[NDArray[np.uint8]] = []

    def look(self, split: str, sample: Sample) -> None:
        """Draw every so many-th sample."""
        if self.passed % self.every == 0:
            self.cells.append(draw_cell(sample, f"{split}  {sample.name}".strip()))
        self.passed += 1


def document(layout: Layout, path: Path, report: Report, sheet: Path | None) -> dict[str, Any]:
    """Everything that was found, for machines."""
    return {
        "path": str(path),
        "layout": layout.name,
        "classes": list(layout.classes),
        "licence": layout.licence,
        "sound": report.sound,
        "splits": {
            split: {
                "images": counts.images,
                "nuclei": counts.nuclei,
                "at_border": counts.at_border,
                "median_diameter_px": _median(counts),
            }
            for split, counts in report.counts.items()
        },
        "findings": [{**asdict(finding), "fatal": finding.kind in FATAL} for finding in report.findings],
        "contact_sheet": None if sheet is None else str(sheet),
    }


def print_report(layout: Layout, report: Report) -> None:
    """A table of the splits, then the findings."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    classes = f", classes {', '.join(layout.classes)}" if layout.classes else ""
    console.print(f"{layout.title}{classes}")
    table = Table("split", "images", "nuclei", "at the border", "median diameter", box=None)
    for split, counts in report.counts.items():
        median = _median(counts)
        table.add_row(
            split or "(none)",
            str(counts.images),
            str(counts.nuclei),
            str(counts.at_border),
            "–" if median is None else f"{median:.1f} px",
        )
    console.print(table)
    for kind, number in Counter(finding.kind for finding in report.findings).items():
        console.print(f"{kind}: {number}", style="red" if kind in FATAL else "yellow")
        details = [finding.detail for finding in report.findings if finding.kind == kind]
        for detail in details[:SHOWN]:
            console.print(f"  {detail}")
        if number > SHOWN:
            console.print(f"  … and {number - SHOWN} more; --json lists them all.")
    if not report.findings:
        console.print("nothing wrong", style="green")


def _median(counts: Counts) -> float | None:
    return float(np.median(counts.diameters)) if counts.diameters else None
