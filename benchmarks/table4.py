"""The paper's Table 4: AJI and PQ on Kumar and CPM-17, with and without test-time augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.accuracy import OURS_AND_THEIRS, Case, existing_folder, mean_of, parse_model, run_table
from benchmarks.paper import TABLE4

EXAMPLES = """
\b
Examples:
  python -m benchmarks table4 nano --kumar kumar/
  python -m benchmarks table4 bundles/h --kumar kumar/ --cpm17 cpm17/ --split test --tta
"""


def cases(model: str, data: dict[str, Path | None], split: str, tta: bool) -> Iterator[Case]:
    """The paper's methods and ours, data set by data set."""
    for name, folder in data.items():
        if folder is None:
            continue
        for method, printed in TABLE4[name].items():
            yield Case(method, None, (), split, printed=printed, part=name, quoted=True)
        yield Case(f"{Path(model).name} (this one)", parse_model(model), (folder,), split, part=name)
        if tta:
            name_of = f"{Path(model).name} (this one), TTA"
            yield Case(name_of, parse_model(model), (folder,), split, ("--tta",), part=name)


@click.command(epilog=EXAMPLES)
@click.argument("model")
@click.option("--kumar", type=existing_folder(), help="Annotated images of Kumar.")
@click.option("--cpm17", type=existing_folder(), help="Annotated images of CPM-17.")
@click.option("--split", default="val", show_default=True, help="Which images: a split of theirs, or all.")
@click.option("--tta", is_flag=True, help="Also with six flipped and turned views.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def table4(model: str, kumar: Path | None, cpm17: Path | None, split: str, tta: bool, as_json: bool) -> None:
    """Measure AJI and PQ of MODEL, a bundle or PROMPTER,SEGMENTOR checkpoints, beside the paper's Table 4."""
    rows = list(cases(model, {"Kumar": kumar, "CPM-17": cpm17}, split, tta))
    run_table("table4", rows, ("AJI", "PQ"), mean_of("aji", "pq"), OURS_AND_THEIRS, as_json)
