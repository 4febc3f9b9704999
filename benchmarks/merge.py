"""What was measured in several goes on one machine becomes one document.

A quiet machine may be had for minutes only: measure in rounds, and join them here. Rows of the same
method, run and batch become one with all their samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.protocol import Document, Row, read_document
from pnseg_runtime.errors import PnsegError

#: What must be the same for samples to belong together.
SAME = ("cpu", "usable", "torch_threads", "packages")


def merged(documents: Sequence[Document]) -> Document:
    """One document of all rows, with the last one's machine.

    Raises:
        PnsegError: they are of different benchmarks, machines or settings.
    """
    last = documents[-1]
    for other in documents[:-1]:
        if other.benchmark != last.benchmark or other.settings.get("nuclei") != last.settings.get("nuclei"):
            raise PnsegError("these files differ in benchmark or number of nuclei; merge only what belongs together.")
        for name in SAME:
            if getattr(other.machine, name) != getattr(last.machine, name):
                raise PnsegError(f"these files are of different machines ({name} differs); compare them instead.")
    rows: dict[tuple[str, str, int], Row] = {}
    for row in (row for document in documents for row in document.rows):
        rows[row.key] = joined(rows[row.key], row) if row.key in rows else row
    gpus = [seen for document in documents for seen in document.gpus_during]
    return last.model_copy(update={"rows": list(rows.values()), "gpus_during": gpus})


def joined(first: Row, second: Row) -> Row:
    """Both series as one; what only one of them has is kept."""
    if first.latency is None or second.latency is None:
        return second if first.latency is None else first
    latency = first.latency.joined(second.latency)
    fields = {**first.model_dump(), **{k: v for k, v in second.model_dump().items() if v not in (None, {}, [])}}
    return Row(**{**fields, "latency": latency, "fps": latency.per_second})


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The joined JSON.")
def merge(files: tuple[Path, ...], out: Path) -> None:
    """Join FILES, which were measured on one machine, into one."""
    found = merged([read_document(path) for path in files])
    found.save(out)
    click.echo(f"{len(found.rows)} rows from {len(files)} files in {out}.")
