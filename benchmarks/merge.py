"""What was measured in several goes on one machine becomes one document.

A quiet machine may be had for minutes only: measure in rounds, and join them here. Rows of the same
method, run and batch become one with all their samples: of latency, stages, sweep and throughput.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.protocol import Document, Row, Throughput, read_document
from benchmarks.tables import field
from pnseg_runtime.errors import PnsegError

#: What must be the same for samples to belong together.
SAME = ("cpu", "usable", "torch_threads", "packages")

#: Medians of a row → the samples that they are of.
MEDIANS = {"stages_ms": "stages_samples_ms", "sweep_ms": "sweep_samples_ms"}
THROUGHPUT = "throughput"
#: What follows from one go's samples alone.
OF_ONE_GO = ("against_eager", "against_plain_graphs", "share_of_limit")
#: What is left out where it cannot be joined.
POOLED = (*MEDIANS, THROUGHPUT, *OF_ONE_GO)


def merged(documents: Mapping[str, Document]) -> Document:
    """One document of all rows, with the last one's machine.

    Args:
        documents: name of a file → what is in it.

    Raises:
        PnsegError: they are of different benchmarks, machines or settings, or two hold the same measurement.
    """
    *others, (name, last) = documents.items()
    for other_name, other in others:
        both = f"{other_name} and {name}"
        if other.benchmark != last.benchmark or other.settings.get("nuclei") != last.settings.get("nuclei"):
            raise PnsegError(f"{both}: differ in benchmark or number of nuclei; merge only what belongs together.")
        for fact in SAME:
            if getattr(other.machine, fact) != getattr(last.machine, fact):
                raise PnsegError(f"{both}: are of different machines ({fact} differs); compare them instead.")
    for (first, one), (second, two) in combinations(documents.items(), 2):
        if row := repeated(one, two):
            raise PnsegError(
                f"{first} and {second}: hold the same measurement ({row.method}, {row.run}); leave one of them out."
            )
    rows: dict[tuple[str, str, int], Row] = {}
    for row in (row for document in documents.values() for row in document.rows):
        rows[row.key] = joined(rows[row.key], row) if row.key in rows else row
    gpus = [seen for document in documents.values() for seen in document.gpus_during]
    return last.model_copy(update={"rows": list(rows.values()), "gpus_during": gpus})


def repeated(first: Document, second: Document) -> Row | None:
    """A row whose samples are in both, as after a merge; None where there is none."""
    others = {row.key: row for row in second.rows}
    for row in first.rows:
        other = others.get(row.key)
        if row.latency and other and other.latency:
            short, long = sorted((row.latency.samples_ms, other.latency.samples_ms), key=len)
            starts = range(len(long) - len(short) + 1)
            if short and any(long[start : start + len(short)] == short for start in starts):
                return row
    return None


def joined(first: Row, second: Row) -> Row:
    """Both series as one; what only one of them has is kept, and what both have without samples is left out."""
    if first.latency is None or second.latency is None:
        return second if first.latency is None else first
    latency = first.latency.joined(second.latency)
    fields = {**first.model_dump(), **{k: v for k, v in second.model_dump().items() if v not in (None, {}, [])}}
    fields |= pooled(first, second) | {"latency": latency}
    fields |= {name: None for name in OF_ONE_GO if name in fields}
    fields |= {"fps": latency.per_second} if "fps" in fields else {}
    return Row(**fields)


def pooled(first: Row, second: Row) -> dict[str, Any]:
    """Medians and throughput of what both rows have; empty where either has no samples."""
    found: dict[str, Any] = {}
    for name, samples in MEDIANS.items():
        if field(first, name) and field(second, name):
            series = _series(field(first, samples) or {}, field(second, samples) or {})
            found[samples] = series
            found[name] = {key: float(np.median(values)) for key, values in series.items()}
    one, two = (field(row, THROUGHPUT) or {} for row in (first, second))
    if one and two:
        rates = _series(*({batch: rate.get("samples", []) for batch, rate in each.items()} for each in (one, two)))
        found[THROUGHPUT] = {batch: Throughput.of(int(batch), each).model_dump() for batch, each in rates.items()}
    return found


def _series(first: Mapping[str, list[float]], second: Mapping[str, list[float]]) -> dict[str, list[float]]:
    # Files of before samples were kept have none of them.
    if not all(first.values()) or not all(second.values()) or not (first and second):
        return {}
    return {key: [*first.get(key, []), *second.get(key, [])] for key in dict.fromkeys((*first, *second))}


def left_out(documents: Sequence[Document], found: Document) -> Iterator[str]:
    """What files have of a row and the joined one has not, in sentences."""
    for row in found.rows:
        rows = [each for document in documents for each in document.rows if each.key == row.key]
        for name in POOLED:
            if not field(row, name) and any(field(each, name) for each in rows):
                yield f"{row.method}, {row.run}: {name} left out, as it cannot be joined."


EXAMPLES = """
\b
Examples:
  python -m benchmarks merge 1.json 2.json --out table5.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The joined JSON.")
def merge(files: tuple[Path, ...], out: Path) -> None:
    """Join FILES, which were measured on one machine, into one."""
    if twice := next((path for path in files if files.count(path) > 1), None):
        raise PnsegError(f"{twice}: is given twice; leave one of them out.")
    documents = {str(path): read_document(path) for path in files}
    found = merged(documents)
    found.save(out)
    click.echo(f"{len(found.rows)} rows from {len(files)} files in {out}.")
    for text in left_out([*documents.values()], found):
        click.echo(text)
