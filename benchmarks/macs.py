"""Multiply-accumulates of the networks as they are exported, against the plain ones (paper Table 5)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from benchmarks.networks import random_pair
from pnseg_export.bundle import export_graphs
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.prompter import PrompterGraph
from pnseg_export.graphs.rewrites import PLAIN, TARGETS, Rewrites
from pnseg_export.macs import file_cost, torch_macs
from pnseg_runtime.documents import print_json
from pnseg_train.models.segmentor import WINDOW
from pnseg_train.models.sizes import SEGMENTOR_SIZES


def exported_macs(size: str, nuclei: int, negatives: int, rewrites: Rewrites) -> dict[str, int]:
    """Multiply-accumulates a graph for one window, counted from ONNX files that are made for it."""
    sizes = {"batch": 1, "height": WINDOW, "width": WINDOW, "prompts": nuclei, "points": 1 + negatives}
    with tempfile.TemporaryDirectory() as folder:
        files = export_graphs(*random_pair(size), Path(folder), rewrites)
        return {graph: file_cost(Path(folder) / file.file, sizes).macs for graph, file in files.items()}


@torch.no_grad()
def module_macs(size: str, nuclei: int, negatives: int, rewrites: Rewrites) -> dict[str, int]:
    """The same by PyTorch's counter, of the modules that are exported."""
    prompter, segmentor = random_pair(size, "meta")
    with torch.device("meta"):
        image = torch.empty(1, 3, WINDOW, WINDOW)
        coords, labels = torch.empty(nuclei, 1 + negatives, 2), torch.empty(nuclei, 1 + negatives)
        index = torch.empty(nuclei, dtype=torch.int64)
        encoder = EncoderGraph(segmentor, rewrites)
        calls: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
            "prompter": (PrompterGraph(prompter), (image,)),
            "encoder": (encoder, (image,)),
            "decoder": (DecoderGraph(segmentor, rewrites), (*encoder(image), coords, labels, index)),
        }
        return {graph: torch_macs(module, *inputs) for graph, (module, inputs) in calls.items()}


def report(size: str, nuclei: int, negatives: int = 1, target: str = "cpu") -> dict[str, Any]:
    """All counts of a size, in GMACs."""
    exported = exported_macs(size, nuclei, negatives, TARGETS[target])
    modules = module_macs(size, nuclei, negatives, TARGETS[target])
    plain = module_macs(size, nuclei, negatives, PLAIN)
    graphs = {
        graph: {"gmacs": exported[graph] / 1e9, "torch_gmacs": modules[graph] / 1e9, "plain_gmacs": plain[graph] / 1e9}
        for graph in exported
    }
    return {
        "size": size,
        "nuclei": nuclei,
        "negatives": negatives,
        "target": target,
        "total_gmacs": sum(exported.values()) / 1e9,
        "reference_gmacs": sum(plain.values()) / 1e9,
        "graphs": graphs,
    }


EXAMPLES = """
\b
Examples:
  python -m benchmarks macs --size nano
  python -m benchmarks macs --size B --target gpu --json
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--size", type=click.Choice(list(SEGMENTOR_SIZES)), default="B", show_default=True, help="Of the networks."
)
@click.option("--nuclei", type=click.IntRange(min=1), default=24, show_default=True, help="Prompts in the window.")
@click.option(
    "--negatives", type=click.IntRange(min=0), default=1, show_default=True, help="K, negative prompts of each."
)
@click.option(
    "--target", type=click.Choice(list(TARGETS)), default="cpu", show_default=True, help="The rewrites, as in export."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def macs(size: str, nuclei: int, negatives: int, target: str, as_json: bool) -> None:
    """Export a size with random weights and count what one 256×256 window costs."""
    result = report(size, nuclei, negatives, target)
    if as_json:
        print_json(result)
        return
    click.echo(f"{'':9} {'exported':>10} {'plain':>10}  GMACs")
    for graph, row in result["graphs"].items():
        click.echo(f"{graph:9} {row['gmacs']:10.3f} {row['plain_gmacs']:10.3f}")
    click.echo(f"{'total':9} {result['total_gmacs']:10.3f} {result['reference_gmacs']:10.3f}")
