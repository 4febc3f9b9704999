"""``pnseg parity``: is it still the same model, in every precision and on every engine at hand?"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from pnseg_export.agreement import CONFIDENT
from pnseg_export.comparison import report
from pnseg_export.comparison.compare import Result, compare_all
from pnseg_export.comparison.participants import participants, pytorch
from pnseg_export.comparison.suspects import suspects
from pnseg_export.gates import ENOUGH, LIMITS, Limits, told
from pnseg_export.precision.feeds import SAMPLES, Tile, read_tiles
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import ImageError
from pnseg_train.datasets import Sample, layout_of, open_dataset

EXAMPLES = """
\b
Examples:
  pnseg parity nano
  pnseg parity bundles/mine --images TNBC --split val --html parity.html
  pnseg parity bundles/mine --reference runs/prompter/best runs/segmentor/best --bisect

\b
Exit codes: 0 all within their limits, 1 something falls short, 2 wrong usage.
"""


JUDGED = ("float32", "float16", "bfloat16", "int8")
HELP = f"""Compare BUNDLE in all its precisions, and on every engine of this machine, with its reference.

Tensors, points (moved, lost, gained), masks, and with annotations PQ and AJI. Half precision is rounded here as a GPU
rounds it. Least mean mask IoU: {told("iou", *JUDGED)}; least PQ against the reference: {told("agreement", *JUDGED)}. No
point with a score over {CONFIDENT:g} may be lost in {" and ".join(name for name in JUDGED if LIMITS[name].lost == 0)},
and images in which the reference finds fewer than {ENOUGH} nuclei are no measure.
"""


@click.command(epilog=EXAMPLES, help=HELP)
@click.argument("bundle")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=SAMPLES,
    help="Folder of images, or an annotated data set, for PQ and AJI [default: the sample images].",
)
@click.option("--split", help="Of the annotated data set [default: all of it].")
@click.option(
    "--reference",
    nargs=2,
    type=click.Path(path_type=Path, exists=True),
    metavar="PROMPTER SEGMENTOR",
    help="Checkpoints of the two networks [default: the bundle's float32 graphs].",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Images at most.")
@click.option("--iou", type=click.FloatRange(0, 1), help="Least mean mask IoU [default: each precision's own].")
@click.option("--bisect", is_flag=True, help="Name the first layer of each graph that departs.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write a page with the worst masks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads [default: the physical cores, or a container's quota]."
)
def parity(
    bundle: str,
    images: Path,
    split: str | None,
    reference: tuple[Path, Path] | None,
    limit: int,
    iou: float | None,
    bisect: bool,
    page: Path | None,
    as_json: bool,
    threads: int | None,
) -> None:
    """Compare a bundle with its reference; see :data:`HELP`."""
    opened = Bundle.open(bundle)
    tiles, samples = _open(images, split, limit, opened.manifest.mpp)
    others = participants(opened, threads)
    first = pytorch(*reference) if reference else others.pop(0)
    with Console(stderr=True).status("") as status:
        results = compare_all(
            opened, first, others, tiles, samples, lambda name: status.update(f"{name} on {len(tiles)} tiles")
        )
        status.update("looking for the first layer that departs")
        departures = suspects(opened, tiles, reference) if bisect else []
    said: list[list[str]] = [[], *(result.failures(_limits(result, iou)) for result in results[1:])]
    failures = list(chain(*said))
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(report.as_html(bundle, results, tiles, failures, departures), encoding="utf-8")
    if as_json:
        print_json(report.document(bundle, results, said, departures))
    else:
        _print(results)
        for sentence in (*failures, *departures):
            click.echo(sentence)
        if bisect and not departures:
            click.echo("No layer departs.")
    if failures:
        raise SystemExit(1)


def _limits(result: Result, iou: float | None) -> Limits:
    own = LIMITS[result.precision]
    return own if iou is None else replace(own, iou=iou)


def _open(images: Path, split: str | None, limit: int, mpp: float) -> tuple[list[Tile], list[Sample]]:
    # Images as a model of ``mpp`` sees them, and with their annotations, if they have any, as they are.
    try:
        layout_of(images)
    except ImageError:
        if split is not None:
            raise
        return read_tiles(images)[:limit], []
    data = open_dataset(images, split)
    samples = [data[index] for index in range(min(limit, len(data)))]
    return [sample.at_mpp(mpp).image for sample in samples], samples


def _print(results: list[Result]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    framed = console.is_terminal
    if not framed:
        console.width = 10_000
    table = Table(box=box.SIMPLE_HEAD if framed else None, show_edge=False, pad_edge=False)
    table.add_column("against " + results[0].name)
    titles = list(dict.fromkeys(title for result in results for title in report.cells(result)))
    for title in titles:
        table.add_column(title, justify="right")
    for result in results:
        row = report.cells(result)
        table.add_row(result.name, *(row.get(title, "–") for title in titles))
    console.print(table)
    for result in results[1:]:
        tensors = ", ".join(f"{name} {entry['max_abs']:.2g}" for name, entry in result.tensors.items())
        console.print(f"{result.name}: largest differences: {tensors}")
