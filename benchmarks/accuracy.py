"""Ours beside the paper's: ``pnseg evaluate`` with the switches of a table's rows, as a user would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.protocol import Document, Protocol, Row
from pnseg_runtime.errors import PnsegError

#: One bundle, or a prompter's and a segmentor's checkpoint.
Model = tuple[str, ...]
#: ``evaluate``'s document → the figures of a row.
Figures = Callable[[Mapping[str, Any]], dict[str, float | None]]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Case:
    """A row of a table.

    Attributes:
        row: its name, as the paper has it.
        model: what to evaluate; None where none was given, and then the row says so.
        data: folders of annotated images.
        split: theirs.
        switches: further options of ``pnseg evaluate``.
        printed: the paper's figures; None where it has none.
        part: what the row belongs to, such as a data set.
        quoted: whether the row is the paper's alone, so that no model is missing.
    """

    row: str
    model: Model | None
    data: tuple[Path, ...]
    split: str
    switches: tuple[str, ...] = ()
    printed: tuple[float, ...] | None = None
    part: str = ""
    quoted: bool = False


def parse_model(text: str) -> Model:
    """``bundle`` or ``prompter,segmentor``."""
    return tuple(text.split(","))


def evaluate(case: Case) -> dict[str, Any]:
    """The document of ``pnseg evaluate``.

    Raises:
        PnsegError: it fails; with what it said.
    """
    assert case.model is not None
    command = [sys.executable, "-m", "pnseg_runtime.cli", "evaluate", *case.model, "--split", case.split, "--json"]
    command += [part for folder in case.data for part in ("--data", str(folder))] + list(case.switches)
    done = run_command(command)
    if done.returncode:
        raise PnsegError(f"{case.row}: {(done.stderr.strip().splitlines() or ['pnseg evaluate failed'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one of our own commands to its end."""
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def mean_of(*metrics: str) -> Figures:
    """Mean over all images of the sets, each metric by its name."""

    def figures(document: Mapping[str, Any]) -> dict[str, float | None]:
        rows = [row for found in document["sets"].values() for row in found["rows"].values()]
        values = {name: [row[name] for row in rows if row.get(name) is not None] for name in metrics}
        return {name: sum(found) / len(found) if found else None for name, found in values.items()}

    return figures


def fill(benchmark: str, cases: Sequence[Case], figures: Figures, say: Say) -> Document:
    """One row a case, ours and the paper's; the cases of which nothing was given are rows without a figure."""
    rows = []
    for case in cases:
        told: dict[str, Any] = {"part": case.part, "printed": case.printed}
        if case.model is None:
            note = "" if case.quoted else "not measured: no model given"
            rows.append(Row(method=case.row, run=case.part, note=note, figures=None, **told))
            continue
        say(f"{case.part} {case.row}")
        found = evaluate(case)
        told |= {"model": list(case.model), "switches": list(case.switches), "protocol": found["protocol"]}
        told["images"] = sum(each["images"] for each in found["sets"].values())
        rows.append(Row(method=case.row, run=case.part, figures=figures(found), **told))
    return Document(benchmark=benchmark, protocol=Protocol(warmup=0, rounds=1), machine=describe(), rows=rows)


def show(document: Document, metrics: Sequence[str], note: str, as_json: bool) -> None:
    """Print ours beside the paper's."""
    if as_json:
        click.echo(document.model_dump_json(indent=1))
        return
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    table = Table(box=None)
    table.add_column("")
    table.add_column("")
    table.add_column("images", justify="right")
    for whose in ("ours", "paper"):
        for metric in metrics:
            table.add_column(f"{whose} {metric}", justify="right")
    for row in document.rows:
        extra: dict[str, Any] = row.model_extra or {}
        ours = [_cell(value) for value in (extra["figures"] or {}).values()] or [""] * len(metrics)
        printed = [_cell(value) for value in extra["printed"] or [None] * len(metrics)]
        table.add_row(str(extra["part"]), row.method, str(extra.get("images", "")), *ours, *printed, row.note)
    console.print(table)
    console.print(note, style="dim")
    for text in dict.fromkeys((row.model_extra or {}).get("protocol") for row in document.rows):
        if text:
            console.print(text, style="dim")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def run_table(
    benchmark: str,
    cases: Sequence[Case],
    metrics: Sequence[str],
    figures: Figures,
    note: str,
    as_json: bool,
    finish: Callable[[Document], Document] = lambda document: document,
) -> None:
    """Measure and print a table, with a line of progress.

    Args:
        benchmark: the verb.
        cases: its rows.
        metrics: titles of the figures.
        figures: ``evaluate``'s document → a row's figures.
        note: a line below the table.
        as_json: print the document instead.
        finish: adds rows that follow from the others.

    Raises:
        PnsegError: nothing to measure was given, or an evaluation fails.
    """
    if all(case.model is None for case in cases):
        raise PnsegError(f"{benchmark}: give a model and annotated images; python -m benchmarks {benchmark} --help.")
    console = Console(stderr=True, highlight=False)
    with console.status(benchmark) as status:
        say: Say = status.update if console.is_terminal else console.print
        document = finish(fill(benchmark, cases, figures, say))
    show(document, metrics, note, as_json)


OURS_AND_THEIRS = (
    "Ours are of the model and the images that were given; the paper's are of its models on its test sets."
)


def existing_folder() -> click.Path:
    """A folder of annotated images."""
    return click.Path(exists=True, file_okay=False, path_type=Path)
