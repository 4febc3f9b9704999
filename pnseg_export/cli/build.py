"""``pnseg build``: TensorRT engines for a bundle."""

from __future__ import annotations

from typing import get_args

import click
from rich.console import Console

from pnseg_export.engines.build import BuildChoices, build_engines
from pnseg_export.engines.job import Built
from pnseg_export.engines.profiles import Buckets
from pnseg_export.engines.targets import DEFAULT_TARGETS, parse_target
from pnseg_runtime.bundle import GRAPH_PRECISIONS, SHIPPED, Bundle, EngineFile, GraphName, Precision
from pnseg_runtime.errors import PnsegError

EXAMPLES = """
\b
Examples:
  pnseg build bundles/mine
  pnseg build bundles/mine --target rtx:sm86 --target rtx:sm89
  pnseg build bundles/mine --target tensorrt --workspace 2048
"""


def _ends(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise click.BadParameter("give numbers from 1 on, separated by commas, e.g. 32,128,512.", ctx, param)
    ends = tuple(int(part) for part in parts)
    if list(ends) != sorted(set(ends)):
        raise click.BadParameter("the numbers must ascend.", ctx, param)
    return ends


@click.command(epilog=EXAMPLES)
@click.argument("bundle")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=DEFAULT_TARGETS,
    show_default=True,
    help="rtx:smNN builds without a GPU; tensorrt for this machine's GPU. May be repeated.",
)
@click.option(
    "--precision",
    type=click.Choice(GRAPH_PRECISIONS),
    default="float16",
    show_default=True,
    help="Of the graphs to build from; pnseg quantise adds them.",
)
@click.option(
    "--graph",
    "graphs",
    type=click.Choice(["prompter", "encoder", "decoder"]),
    multiple=True,
    help="Only this network [default: all three]; may be repeated.",
)
@click.option(
    "--batches",
    callback=_ends,
    default="1,8",
    show_default=True,
    help="Windows a call: the largest number of each optimisation profile of the encoder.",
)
@click.option(
    "--prompts",
    callback=_ends,
    default="32,128,512",
    show_default=True,
    help="Prompts a call: the largest number of each profile of the decoder.",
)
@click.option(
    "--side",
    type=click.IntRange(256),
    default=2048,
    show_default=True,
    help="Longest side of an image that the prompter takes, px.",
)
@click.option(
    "--workspace", type=click.IntRange(1), metavar="MIB", help="Most scratch memory of a layer [default: TensorRT's]."
)
@click.option("--level", type=click.IntRange(0, 5), help="The builder's effort [default: TensorRT's].")
def build(
    bundle: str,
    targets: tuple[str, ...],
    precision: Precision,
    graphs: tuple[GraphName, ...],
    batches: tuple[int, ...],
    prompts: tuple[int, ...],
    side: int,
    workspace: int | None,
    level: int | None,
) -> None:
    """Build TensorRT engines of BUNDLE's networks, beside its graphs.

    Every engine is built in a process of its own, its layers and types are counted, and one that is not
    of the precision that was asked for fails. The builder's log is kept beside it.
    """
    opened = Bundle.open(bundle)
    if opened.folder.resolve().is_relative_to(SHIPPED.resolve()):
        raise PnsegError(
            f"{opened.folder}: comes with pnseg and is not changed; "
            f"make a bundle of your own first: pnseg quantise {bundle} --precision {precision} --out FOLDER"
        )
    if opened.manifest.provenance.target == "cpu":
        click.echo(
            f"{opened.folder}: its graphs were exported for CPUs; pnseg export --target gpu makes some whose engines "
            "need fewer kernels for the same nuclei.",
            err=True,
        )
    chosen = [parse_target(target) for target in targets]
    choices = BuildChoices(
        precision=precision,
        buckets=Buckets(batches, prompts, side, opened.manifest.prompting.negatives),
        workspace=None if workspace is None else workspace << 20,
        level=level,
        graphs=graphs or get_args(GraphName),
    )
    with Console(stderr=True).status(f"building {len(chosen) * len(choices.graphs)} engines"):
        build_engines(opened, chosen, choices, show)


def show(engine: EngineFile, built: Built) -> None:
    """Print what was built."""
    types = ", ".join(f"{count} {kind}" for kind, count in engine.census.items() if kind in {"HALF", "FLOAT", "INT8"})
    fused = "?" if engine.fused_attention is None else engine.fused_attention
    kernels = ", ".join(map(str, engine.kernels)) or "?"
    click.echo(
        f"{engine.file}  {engine.bytes / 2**20:.1f} MiB  {engine.seconds:.1f} s  "
        f"{built.memory / 2**30:.1f} GiB memory  tensors: {types}  attention: {fused} of {engine.attention} fused  "
        f"kernels a call, by profile: {kernels}"
    )
