"""The paper's Table 6: what each idea adds, AJI and PQ on CPM-17."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from benchmarks.accuracy import OURS_AND_THEIRS, Case, existing_folder, mean_of, parse_model, run_table
from benchmarks.paper import TABLE6

#: Row → (which model it is of, the switches it is run with).
ROWS = {
    "frozen SAM": ("frozen", ("--no-region-filter", "--negatives", "0")),
    "+ fine-tuning": ("tuned", ("--no-region-filter", "--negatives", "0")),
    "+ auxiliary mask": ("auxiliary", ("--no-region-filter", "--negatives", "0")),
    "+ mask-aided filtering": ("auxiliary", ("--region-filter", "--negatives", "0")),
    "+ negative prompts": ("negative", ("--region-filter", "--negatives", "1")),
}

EXAMPLES = """
\b
Examples:
  python -m benchmarks table6 --data cpm17 --auxiliary bundles/mine --negative bundles/mine
  python -m benchmarks table6 --data cpm17 --frozen a --tuned b --auxiliary c --negative d --split test
"""


def cases(models: Mapping[str, str | None], data: Path, split: str) -> Iterator[Case]:
    """One row an idea; a model that was not given leaves its rows open."""
    for row, (which, switches) in ROWS.items():
        model = models[which]
        yield Case(row, None if model is None else parse_model(model), (data,), split, switches, TABLE6[row])


@click.command(epilog=EXAMPLES)
@click.option("--data", required=True, type=existing_folder(), help="Annotated images, CPM-17 in the paper.")
@click.option("--split", default="val", show_default=True, help="Which images: a split of theirs, or all.")
@click.option("--frozen", help="Model whose segmentor is SAM as published.")
@click.option("--tuned", help="Model whose prompter has no auxiliary mask.")
@click.option("--auxiliary", help="Model with the auxiliary mask.")
@click.option("--negative", help="Model trained with negative prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table6(
    data: Path,
    split: str,
    frozen: str | None,
    tuned: str | None,
    auxiliary: str | None,
    negative: str | None,
    as_json: bool,
) -> None:
    """Measure AJI and PQ as ideas are added, beside the paper's Table 6.

    A model is a bundle or PROMPTER,SEGMENTOR checkpoints. One model trained with both ideas gives
    the last three rows by switches alone.
    """
    models = {"frozen": frozen, "tuned": tuned, "auxiliary": auxiliary, "negative": negative}
    rows = list(cases(models, data, split))
    run_table("table6", rows, ("AJI", "PQ"), mean_of("aji", "pq"), OURS_AND_THEIRS, as_json)
