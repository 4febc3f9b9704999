"""``pnseg quantise``: half-precision and 8-bit graphs for a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pnseg_export.agreement import CONFIDENT, shown
from pnseg_export.cli.options import precisions_option, tiles_option
from pnseg_export.gates import told
from pnseg_export.precision.feeds import read_tiles
from pnseg_export.precision.int8 import SCHEMES
from pnseg_export.precision.variants import Int8Choices, Reduced, add_variants
from pnseg_runtime.bundle import Bundle, Manifest

EXAMPLES = """
\b
Examples:
  pnseg quantise bundles/mine --precision int8 --tiles validation/images
  pnseg quantise nano --precision float16 --out bundles/nano-half
  pnseg quantise bundles/mine --precision int8 --int8-for gpu --out bundles/mine-gpu
"""


JUDGED: tuple[Reduced, ...] = get_args(Reduced)
HELP = f"""Add graphs of lower precision to BUNDLE, a bundle's folder or the name of a shipped one.

They are made from the bundle's float32 graphs and judged by the nuclei found on real tiles. Against float32, the mean
mask IoU must be at least {told("iou", *JUDGED)} and PQ at least {told("agreement", *JUDGED)}, or nothing is written;
docs/parity.md has all limits.
"""


@click.command(epilog=EXAMPLES, help=HELP)
@click.argument("bundle")
@precisions_option("float16 for GPUs, int8 for CPUs with VNNI and for GPUs", required=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the result [default: the bundle itself].")
@tiles_option(", to measure ranges on and to judge the result")
@click.option(
    "--int8-for",
    type=click.Choice(list(SCHEMES)),
    default="cpu",
    show_default=True,
    help="Unsigned activations with an offset (ONNX Runtime, OpenVINO), or signed symmetric ones (TensorRT).",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0.0, 1.0),
    default=Int8Choices.tolerance,
    show_default=True,
    help="A layer that alone moves an output by more than this share of its spread stays in float32.",
)
@click.option(
    "--search/--no-search", default=True, show_default=True, help="Measure each layer alone; takes minutes for B."
)
@click.option("--accept", is_flag=True, help="Keep graphs that fall short of a limit.")
def quantise(
    bundle: str,
    precisions: tuple[Reduced, ...],
    out: Path | None,
    tiles: Path,
    int8_for: str,
    tolerance: float,
    search: bool,
    accept: bool,
) -> None:
    """Add graphs of lower precision to a bundle; see :data:`HELP`."""
    opened = Bundle.open(bundle)
    choices = Int8Choices(SCHEMES[int8_for], tolerance, search)
    with progress() as bar:
        tasks = {}

        def advance(graph: str, done: int, total: int) -> None:
            if graph not in tasks:
                tasks[graph] = bar.add_task(graph, total=total)
            bar.update(tasks[graph], completed=done)

        manifest = add_variants(
            opened, out or opened.folder, precisions, read_tiles(tiles), choices, advance, accept=accept
        )
    for precision in precisions:
        describe(manifest, precision)
    for engine in opened.manifest.engines:
        if engine not in manifest.engines:
            click.echo(f"{engine.file}: removed, as it was built of other {engine.precision} graphs; run pnseg build.")


def progress() -> Progress:
    """A progress bar on standard error, shown on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def describe(manifest: Manifest, precision: Reduced) -> None:
    """Print the files of a precision, what stayed in float32, and how well its nuclei agree."""
    for name, file in manifest.variants[precision].items():
        census = ", ".join(f"{count} {kind}" for kind, count in file.census.items() if kind not in {"int64", "bool"})
        click.echo(f"{name:9} {file.file:22} {file.bytes / 1e6:7.1f} MB   tensors: {census}")
        for layer, reason in file.kept.items():
            click.echo(f"{'':9} float32: {layer} ({reason})")
    figures = manifest.parity[precision]
    click.echo(
        f"{precision} against float32 on {figures['tiles']} tiles: mask IoU {shown(figures['mask_iou_mean'])} "
        f"(5th percentile {shown(figures['mask_iou_p5'])}), points lost {figures['points_lost']} "
        f"(score over {CONFIDENT:g}: {figures['points_lost_confident']}), gained {figures['points_gained']}, "
        f"nuclei lost {figures['nuclei_lost']}, gained {figures['nuclei_gained']}, "
        f"PQ {shown(figures['pq_against_reference'])}"
    )
