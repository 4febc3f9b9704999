"""The paper's Table 1: binary and multi-class PQ on PanNuke, mean over tissues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from benchmarks.accuracy import OURS_AND_THEIRS, Case, existing_folder, parse_model, run_table
from benchmarks.paper import TABLE1

EXAMPLES = """
\b
Examples:
  python -m benchmarks table1 --data PanNuke --fold 123:test=bundles/a --fold 213:test=bundles/b
  python -m benchmarks table1 --data PanNuke --fold val=nano
"""


def tissue_means(document: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean over the tissues, each the mean over its images (section 7 of the protocol)."""
    found: dict[str, float | None] = {}
    tissues = {name: row for name, row in document["tissues"].items() if name != "mean"}
    for metric in ("bpq", "mpq"):
        values = [row[metric] for row in tissues.values() if row.get(metric) is not None]
        found[metric] = fmean(values) if values else None
    return found


@click.command(epilog=EXAMPLES)
@click.option("--data", required=True, type=existing_folder(), help="PanNuke.")
@click.option("--fold", "folds", multiple=True, required=True, metavar="SPLIT=MODEL", help="As in evaluate.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table1(data: Path, folds: tuple[str, ...], as_json: bool) -> None:
    """Measure bPQ and mPQ of each fold's model on its split, beside the paper's Table 1."""
    rows = [Case(method, None, (), "", printed=printed, part="paper") for method, printed in TABLE1.items()]
    for fold in folds:
        split, _, model = fold.partition("=")
        if not model:
            raise click.BadParameter(f"{fold}: expected SPLIT=MODEL, such as 123:test=bundles/a", param_hint="--fold")
        rows.append(Case(Path(model).name, parse_model(model), (data,), split, part=split))
    run_table("table1", rows, ("bPQ", "mPQ"), tissue_means, OURS_AND_THEIRS, as_json)
