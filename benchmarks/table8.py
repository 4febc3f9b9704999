"""The paper's Table 8: the class told by the prompter, or by a token of the segmentor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from benchmarks.accuracy import Case, existing_folder, parse_model, run_table
from benchmarks.table1 import tissue_means

WHERE = {"class in the prompter": "prompter", "class in the segmentor": "segmentor"}

NOTE = "The paper's figures of this table are not part of this project; ours are of the models and images given."

EXAMPLES = """
\b
Examples:
  python -m benchmarks table8 --data PanNuke --split 123:test --prompter a --segmentor b
"""


def cases(models: Mapping[str, str | None], data: Path, split: str) -> Iterator[Case]:
    """One row a place of the class."""
    for row, where in WHERE.items():
        model = models[where]
        yield Case(row, None if model is None else parse_model(model), (data,), split)


@click.command(epilog=EXAMPLES)
@click.option("--data", required=True, type=existing_folder(), help="Annotated images with classes.")
@click.option("--split", default="val", show_default=True, help="Which images: a split of theirs, or all.")
@click.option("--prompter", help="Model whose prompter tells the class.")
@click.option("--segmentor", help="Model whose segmentor tells the class by a token.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table8(data: Path, split: str, prompter: str | None, segmentor: str | None, as_json: bool) -> None:
    """Measure bPQ and mPQ with the class told in one place and in the other."""
    rows = list(cases({"prompter": prompter, "segmentor": segmentor}, data, split))
    run_table("table8", rows, ("bPQ", "mPQ"), tissue_means, NOTE, as_json)
