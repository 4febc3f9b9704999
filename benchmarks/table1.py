"""The paper's Table 1: binary and multi-class PQ on PanNuke, mean over tissues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from benchmarks.accuracy import OURS_AND_THEIRS, Case, existing_folder, parse_model, run_table
from benchmarks.paper import TABLE1
from benchmarks.protocol import Document, Row

EXAMPLES = """
\b
Examples:
  python -m benchmarks table1 --data PanNuke --fold 123:test=bundles/a --fold 213:test=bundles/b
  python -m benchmarks table1 --data PanNuke --fold val=nano
"""


def tissue_means(document: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean over the tissues, each the mean over its images (section 7 of the protocol)."""
    average = document["tissues"]["average"]
    return {"bpq": average["bpq"], "mpq": average["mpq"]}


def over_folds(document: Document) -> Document:
    """The same with a row more, the mean over the folds, where there are several."""
    found = [extra["figures"] for row in document.rows if (extra := row.model_extra or {})["figures"]]
    if len(found) < 2:
        return document
    means = {
        metric: fmean(values) if (values := [each[metric] for each in found if each[metric] is not None]) else None
        for metric in ("bpq", "mpq")
    }
    row = Row(method=f"mean of {len(found)} folds", run="", part="", printed=None, figures=means)
    return document.model_copy(update={"rows": [*document.rows, row]})


@click.command(epilog=EXAMPLES)
@click.option("--data", required=True, type=existing_folder(), help="PanNuke.")
@click.option(
    "--fold",
    "folds",
    multiple=True,
    required=True,
    metavar="SPLIT=MODEL",
    help="A split and the model tested on it, as in evaluate; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table1(data: Path, folds: tuple[str, ...], as_json: bool) -> None:
    """Measure bPQ and mPQ of each fold's model on its split, beside the paper's Table 1."""
    rows = [
        Case(method, None, (), "", printed=printed, part="paper", quoted=True) for method, printed in TABLE1.items()
    ]
    for fold in folds:
        split, _, model = fold.partition("=")
        if not model:
            raise click.BadParameter(f"{fold}: expected SPLIT=MODEL, such as 123:test=bundles/a", param_hint="--fold")
        rows.append(Case(Path(model).name, parse_model(model), (data,), split, part=split))
    run_table("table1", rows, ("bPQ", "mPQ"), tissue_means, OURS_AND_THEIRS, as_json, over_folds)
