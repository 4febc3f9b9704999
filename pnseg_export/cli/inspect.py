"""``pnseg inspect``: what a bundle's graphs cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from pnseg_export.macs import Cost, file_cost
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.documents import print_json

EXAMPLES = """
\b
Examples:
  pnseg inspect nano
  pnseg inspect bundles/mine --nuclei 64 --json
"""


def bundle_costs(bundle: Bundle, nuclei: int) -> dict[str, Cost]:
    """Cost of every graph for one window with ``nuclei`` prompts, each with the manifest's negatives.

    Raises:
        PnsegError: a graph whose shapes depend on data.
    """
    window, negatives = bundle.manifest.masking.window, bundle.manifest.prompting.negatives
    sizes = {"batch": 1, "height": window, "width": window, "prompts": nuclei, "points": 1 + negatives}
    return {graph: file_cost(bundle.path(graph), sizes) for graph in bundle.manifest.graphs}


def total(costs: Mapping[str, Cost]) -> Cost:
    """All graphs together; they run one after another, so of the activations the most that one needs."""
    return Cost(
        macs=sum(cost.macs for cost in costs.values()),
        parameters=sum(cost.parameters for cost in costs.values()),
        weight_bytes=sum(cost.weight_bytes for cost in costs.values()),
        activation_bytes=max(cost.activation_bytes for cost in costs.values()),
    )


@click.command(epilog=EXAMPLES)
@click.argument("bundle")
@click.option("--nuclei", type=click.IntRange(min=1), default=24, show_default=True, help="Prompts in the window.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(bundle: str, nuclei: int, as_json: bool) -> None:
    """Count what a bundle's graphs cost for one window with so many nuclei.

    BUNDLE is a shipped bundle's name (nano) or a bundle's folder. The counts are of the files
    themselves: multiply-accumulates of products and convolutions, parameters, memory of the weights
    and the most that a graph's tensors need at one moment. Each nucleus is decoded once, with its
    negative prompts; where the runtime decodes it again without them, the decoder's part doubles.
    """
    costs = bundle_costs(Bundle.open(bundle), nuclei)
    everything = total(costs)
    if as_json:
        document = {"nuclei": nuclei, "total": _row(everything), "graphs": {k: _row(v) for k, v in costs.items()}}
        print_json(document)
        return
    click.echo(f"{'':9} {'GMACs':>9} {'parameters':>12} {'weights':>11} {'activations':>12}")
    for name, cost in {**costs, "total": everything}.items():
        click.echo(
            f"{name:9} {cost.macs / 1e9:9.3f} {cost.parameters / 1e6:10.2f} M {cost.weight_bytes / 2**20:7.1f} MiB "
            f"{cost.activation_bytes / 2**20:8.1f} MiB"
        )


def _row(cost: Cost) -> dict[str, Any]:
    return {
        "gmacs": cost.macs / 1e9,
        "parameters": cost.parameters,
        "weight_bytes": cost.weight_bytes,
        "activation_bytes": cost.activation_bytes,
    }
