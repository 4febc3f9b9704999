"""The paper's Table 7: negative prompts in training and in testing, with predicted and with true points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from benchmarks.accuracy import Case, existing_folder, mean_of, parse_model, run_table

TESTED = (0, 1, 2)
POINTS = {"predicted points": "predicted", "true points": "oracle"}

NOTE = "The paper's figures of this table are not part of this project; ours are of the models and images given."

EXAMPLES = """
\b
Examples:
  python -m benchmarks table7 --data kumar --model 1=nano
  python -m benchmarks table7 --data cpm17 --model 0=a --model 1=b --model 2=c --split test
"""


def cases(models: Mapping[int, str], data: Path, split: str) -> Iterator[Case]:
    """Points, K in training, K in testing."""
    for part, points in POINTS.items():
        for trained, model in models.items():
            for tested in TESTED:
                switches = ("--negatives", str(tested), "--points", points)
                row = f"K {trained} in training, {tested} in testing"
                yield Case(row, parse_model(model), (data,), split, switches, part=part)


@click.command(epilog=EXAMPLES)
@click.option("--data", required=True, type=existing_folder(), help="Annotated images.")
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="K=MODEL",
    help="A model, and the K of its training; may be repeated.",
)
@click.option("--split", default="val", show_default=True, help="Which images: a split of theirs, or all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table7(data: Path, models: tuple[str, ...], split: str, as_json: bool) -> None:
    """Measure AJI and PQ for K = 0, 1, 2 in testing, with the prompter's points and with the annotation's."""
    parsed: dict[int, str] = {}
    for text in models:
        trained, _, model = text.partition("=")
        if not trained.isdigit() or not model:
            raise click.BadParameter(f"{text}: expected K=MODEL, such as 1=bundles/mine", param_hint="--model")
        parsed[int(trained)] = model
    run_table("table7", list(cases(parsed, data, split)), ("AJI", "PQ"), mean_of("aji", "pq"), NOTE, as_json)
