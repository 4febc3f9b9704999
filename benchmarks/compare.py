"""Two documents of one benchmark beside each other: another machine, or another version on the same one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine
from benchmarks.protocol import Document, Latency, read_document
from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import PnsegError

#: Below this the two spreads overlap so much that a ratio says nothing.
NOISE = "within the spread"


def comparison(first: Document, second: Document) -> dict[str, Any]:
    """Every row that both have, and what differs between the machines.

    Raises:
        PnsegError: they are of different benchmarks.
    """
    if first.benchmark != second.benchmark:
        raise PnsegError(
            f"one file is of {first.benchmark}, the other of {second.benchmark}; compare two files of one benchmark."
        )
    others = {row.key: row for row in second.rows}
    rows = []
    for row in first.rows:
        other = others.get(row.key)
        if other is None or row.latency is None or other.latency is None:
            continue
        rows.append(
            {
                "method": row.method,
                "run": row.run,
                "batch": row.batch,
                "first_ms": row.latency.p50_ms,
                "second_ms": other.latency.p50_ms,
                "times_faster": row.latency.p50_ms / other.latency.p50_ms,
                "clear": apart(row.latency, other.latency),
            }
        )
    return {
        "benchmark": first.benchmark,
        "rows": rows,
        "machines": list(differences(first.machine, second.machine)),
        "settings": list(unequal(first.settings, second.settings)),
    }


def apart(first: Latency, second: Latency) -> bool:
    """Whether nine tenths of the one are all above or below nine tenths of the other."""
    return first.p95_ms < second.p5_ms or second.p95_ms < first.p5_ms


def differences(first: Machine, second: Machine) -> Iterator[str]:
    """What is not the same, in sentences."""
    yield from unequal(first.model_dump(exclude={"time", "load_1m"}), second.model_dump(exclude={"time", "load_1m"}))


def unequal(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Name, first and second value of every entry that is not the same."""
    for name in sorted(first.keys() | second.keys()):
        here, there = first.get(name), second.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            yield from (f"{name} {text}" for text in unequal(here, there))
        elif here != there:
            yield f"{name}: {here} | {there}"


EXAMPLES = """
\b
Examples:
  python -m benchmarks compare before.json after.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("first", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("second", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Say how many times faster SECOND is than FIRST, row by row, and how the machines differ."""
    found = comparison(read_document(first), read_document(second))
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False)
    table = Table(box=None)
    for column in ("method", "run"):
        table.add_column(column)
    for column in ("batch", f"{first.stem} ms", f"{second.stem} ms", "times faster"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in found["rows"]:
        times = (f"{row[name]:.1f}" for name in ("first_ms", "second_ms"))
        note = "" if row["clear"] else NOISE
        table.add_row(row["method"], row["run"], str(row["batch"]), *times, f"{row['times_faster']:.2f}", note)
    console.print(table)
    for title in ("machines", "settings"):
        if found[title]:
            console.print(f"\nWhere the {title} differ ({first.stem} | {second.stem}):")
            for text in found[title]:
                console.print(f"  {text}", style="dim")
