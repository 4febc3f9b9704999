"""The least time that a card can take, from multiply-accumulates, bytes and its published peak rates.

For each graph: the longer of its arithmetic at peak and of its traffic at the memory's full rate, if
weights, inputs and outputs go through the memory once and nothing else does; the graphs run one
after another. No engine reaches it. It is modelled, not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.cards import CARDS, PRECISIONS, Card
from benchmarks.networks import random_pair
from benchmarks.paper import TABLE5
from benchmarks.tiles import TYPICAL
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.prompter import PrompterGraph
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_export.macs import torch_macs
from pnseg_train.models.segmentor import WINDOW
from pnseg_train.models.sizes import SEGMENTOR_SIZES

MODELLED = "Modelled, not measured: the least time by published peak rates; no engine reaches it."


@dataclass(frozen=True)
class Work:
    """Of one graph for one tile.

    Attributes:
        macs: multiply-accumulates.
        values: numbers that go through the memory at least once: weights, inputs, outputs.
    """

    macs: int
    values: int


@torch.no_grad()
def work_of(size: str, nuclei: int, passes: int = 2, target: str = "gpu") -> dict[str, Work]:
    """Work of each graph of a size as it is exported; each nucleus is decoded ``passes`` times."""
    prompter, segmentor = random_pair(size, "meta")
    with torch.device("meta"):
        image = torch.empty(1, 3, WINDOW, WINDOW)
        prompts = nuclei * passes
        points = (torch.empty(prompts, 2, 2), torch.empty(prompts, 2), torch.empty(prompts, dtype=torch.int64))
        encoder = EncoderGraph(segmentor, TARGETS[target])
        modules = {
            "prompter": PrompterGraph(prompter),
            "encoder": encoder,
            "decoder": DecoderGraph(segmentor, TARGETS[target]),
        }
        inputs = {"prompter": (image,), "encoder": (image,), "decoder": (*encoder(image), *points)}
        weights: dict[str, nn.Module] = {
            "prompter": prompter,
            "encoder": segmentor.image_encoder,
            "decoder": segmentor.mask_decoder,
        }
        found = {}
        for graph, module in modules.items():
            outputs = module(*inputs[graph])
            values = sum(tensor.numel() for tensor in (*inputs[graph], *outputs))
            values += sum(parameter.numel() for parameter in weights[graph].parameters())
            found[graph] = Work(torch_macs(module, *inputs[graph]), values)
        return found


def least_ms(work: Work, card: Card, precision: str) -> tuple[float, str]:
    """Least time of a graph, ms, and what bounds it."""
    rate, size = PRECISIONS[precision]
    arithmetic = 2 * work.macs / (getattr(card, rate) * 1e12)
    traffic = work.values * size / (card.bandwidth * 1e9)
    return 1e3 * max(arithmetic, traffic), "arithmetic" if arithmetic >= traffic else "memory"


def model(size: str, nuclei: int, passes: int = 2) -> list[dict[str, Any]]:
    """One row a card and precision."""
    works = work_of(size, nuclei, passes)
    rows = []
    for name, card in CARDS.items():
        for precision in PRECISIONS:
            graphs = {graph: least_ms(work, card, precision) for graph, work in works.items()}
            total = sum(ms for ms, _ in graphs.values())
            rows.append(
                {
                    "card": name,
                    "precision": precision,
                    "least_ms": total,
                    "fps_allowed": 1e3 / total,
                    "graphs": {graph: {"least_ms": ms, "bound": bound} for graph, (ms, bound) in graphs.items()},
                    "source": card.source,
                }
            )
    return rows


@click.command()
@click.option("--size", type=click.Choice(list(SEGMENTOR_SIZES)), default="B", show_default=True)
@click.option("--nuclei", type=click.IntRange(min=1), default=TYPICAL, show_default=True, help="Nuclei of a tile.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def roofline(size: str, nuclei: int, as_json: bool) -> None:
    """Print the least time a tile can take on cards that are not at hand: modelled, not measured."""
    rows = model(size, nuclei)
    if as_json:
        document = {"size": size, "nuclei": nuclei, "measured": False, "how": MODELLED, "rows": rows}
        click.echo(json.dumps(document, indent=1))
        return
    console = Console(highlight=False)
    table = Table(box=None, title=f"PromptNucSeg-{size}, {nuclei} nuclei, each decoded twice", title_justify="left")
    for column in ("card", "precision"):
        table.add_column(column)
    for column in ("least ms", "FPS allowed"):
        table.add_column(column, justify="right")
    table.add_column("bound by")
    for row in rows:
        table.add_row(
            row["card"], row["precision"], f"{row['least_ms']:.2f}", f"{row['fps_allowed']:.0f}", bounds(row["graphs"])
        )
    console.print(table)
    console.print(MODELLED, style="dim")
    if printed := TABLE5.get(f"PromptNucSeg-{size}"):
        limit = next(r["fps_allowed"] for r in rows if r["card"] == "RTX 3090" and r["precision"] == "FP32")
        share = f"{100 * printed.fps / limit:.0f}% of what FP32 allows"
        console.print(f"The paper prints {printed.fps:.0f} FPS on an RTX 3090, {share}.", style="dim")


def bounds(graphs: Mapping[str, Mapping[str, Any]]) -> str:
    """Which graph is bound by what."""
    return ", ".join(f"{graph} {told['bound']}" for graph, told in graphs.items())
