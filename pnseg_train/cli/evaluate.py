"""``pnseg evaluate``: a bundle or a pair of checkpoints against annotated images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.pipeline import Segmenter
from pnseg_train.cli.options import data_option
from pnseg_train.datasets import open_dataset
from pnseg_train.evaluate import SHOWN, Row, evaluate_sample, mean

EXAMPLES = """
\b
Examples:
  pnseg evaluate nano --data TNBC --split val
  pnseg evaluate runs/nano/prompter/best runs/nano/segmentor/best --data DSB --data TNBC
  pnseg evaluate nano --data TNBC --json > tnbc.json
"""

PROTOCOL = (
    "PQ: pairs with IoU > 0.5; AJI: each nucleus takes the prediction of highest IoU; mean over images; "
    "two empty maps count as 1, one empty map as 0; points: one-to-one within 12 px of a centroid."
)


@click.command(epilog=EXAMPLES)
@click.argument("model", nargs=-1, required=True)
@data_option
@click.option("--split", default="val", show_default=True, help="Split of the data set; 'all' for every image.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--assignment", type=click.Choice(["central", "all"]), default="central", show_default=True)
@click.option("--negatives", type=click.IntRange(0), help="K, negative prompts [default: the model's].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every image.")
def evaluate(
    model: tuple[str, ...],
    folders: tuple[Path, ...],
    split: str,
    threads: int | None,
    assignment: str,
    negatives: int | None,
    as_json: bool,
) -> None:
    """Measure PQ, AJI and detection of MODEL: one bundle, or a prompter's and a segmentor's checkpoint."""
    options = Options(threads=threads, assignment=assignment, negatives=negatives)  # type: ignore[arg-type]
    segmenter = open_model(model, options)
    sets: dict[str, dict[str, Row]] = {}
    for folder in folders:
        samples = open_dataset(folder, None if split == "all" else split)
        shown = track(
            samples, description=folder.name, console=Console(stderr=True), disable=not Console(stderr=True).is_terminal
        )
        sets[folder.resolve().name] = {sample.name: evaluate_sample(segmenter.predict, sample) for sample in shown}
    if as_json:
        click.echo(json.dumps(report(sets, split, options), indent=1))
    else:
        print_sets(sets)


def open_model(model: Sequence[str], options: Options) -> Segmenter:
    """A segmenter on a bundle, or on two checkpoints run in PyTorch.

    Raises:
        PnsegError: neither one bundle nor two checkpoints.
    """
    if len(model) == 1:
        return Segmenter(Bundle.open(model[0]), options)
    if len(model) != 2:
        raise PnsegError("give one bundle, or a prompter's and a segmentor's checkpoint.")
    from pnseg_train.inference import open_checkpoints

    return open_checkpoints(Path(model[0]), Path(model[1]), options)


def report(sets: dict[str, dict[str, Row]], split: str, options: Options) -> dict[str, Any]:
    """Everything measured, and how."""
    return {
        "protocol": PROTOCOL,
        "split": split,
        "options": {name: value for name, value in asdict(options).items() if value is not None},
        "sets": {
            name: {"images": len(rows), "mean": mean(list(rows.values())), "rows": rows} for name, rows in sets.items()
        },
    }


def print_sets(sets: dict[str, dict[str, Row]]) -> None:
    """One row a set, and the protocol below."""
    table = Table(*("set", "images", *SHOWN), box=None)
    for name, rows in sets.items():
        average = mean(list(rows.values()))
        table.add_row(name, str(len(rows)), *(f"{average[metric]:.4f}" for metric in SHOWN))
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
    console.print(PROTOCOL, style="dim")
