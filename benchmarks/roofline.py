"""The least time that a card can take, from multiply-accumulates, bytes and its published peak rates.

For each graph: the longer of its arithmetic at peak and of its traffic at the memory's full rate, if
weights, inputs and outputs go through the memory once and nothing else does; the graphs run one
after another. No engine reaches it. It is modelled, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.cards import CARDS, PRECISIONS, Card
from benchmarks.paper import TABLE5
from benchmarks.promptnucseg import own_manifest, own_pair, passes
from benchmarks.tiles import TYPICAL
from pnseg_export.graphs.decoder import DecoderGraph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.prompter import PrompterGraph
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_export.macs import torch_macs
from pnseg_runtime.documents import print_json
from pnseg_train.models.segmentor import WINDOW
from pnseg_train.models.sizes import SEGMENTOR_SIZES

MODELLED = "Modelled, not measured: the least time by published peak rates; no engine reaches it."

#: By the number of passes.
DECODED = {1: "once", 2: "with its negative prompt and again without"}

Tensors = tuple[Tensor, ...]


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
def work_of(size: str, nuclei: int, target: str = "gpu") -> dict[str, Work]:
    """Work of each graph of a size as it is exported; the decoder's is that of all passes that its manifest asks for.

    Args:
        nuclei: of the tile, at least 1.
    """
    prompter, segmentor = own_pair(size, "meta")
    with torch.device("meta"):
        image = torch.empty(1, 3, WINDOW, WINDOW)
        encoder, decoder = EncoderGraph(segmentor, TARGETS[target]), DecoderGraph(segmentor, TARGETS[target])
        features = encoder(image)
        prompts = [
            (torch.empty(nuclei, points, 2), torch.empty(nuclei, points), torch.empty(nuclei, dtype=torch.int64))
            for points in passes(own_manifest(size))
        ]
        return {
            "prompter": _work(PrompterGraph(prompter), prompter, (image,), [()]),
            "encoder": _work(encoder, segmentor.image_encoder, (image,), [()]),
            "decoder": _work(decoder, segmentor.mask_decoder, features, prompts),
        }


def _work(graph: nn.Module, weights: nn.Module, shared: Tensors, calls: Sequence[Tensors]) -> Work:
    # The weights, and the inputs that the calls share, have to go through the memory once.
    values = sum(values.numel() for values in (*shared, *weights.parameters()))
    for own in calls:
        values += sum(tensor.numel() for tensor in (*own, *graph(*shared, *own)))
    return Work(sum(torch_macs(graph, *shared, *own) for own in calls), values)


def least_ms(work: Work, card: Card, precision: str) -> tuple[float, str]:
    """Least time of a graph, ms, and what bounds it."""
    rate, size = PRECISIONS[precision]
    arithmetic = 2 * work.macs / (getattr(card, rate) * 1e12)
    traffic = work.values * size / (card.bandwidth * 1e9)
    return 1e3 * max(arithmetic, traffic), "arithmetic" if arithmetic >= traffic else "memory"


def model(size: str, nuclei: int) -> list[dict[str, Any]]:
    """One row a card and precision."""
    works = work_of(size, nuclei)
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


EXAMPLES = """
\b
Examples:
  python -m benchmarks roofline
  python -m benchmarks roofline --size nano --nuclei 40
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--size", type=click.Choice(list(SEGMENTOR_SIZES)), default="B", show_default=True, help="Of the networks."
)
@click.option("--nuclei", type=click.IntRange(min=1), default=TYPICAL, show_default=True, help="Nuclei of a tile.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def roofline(size: str, nuclei: int, as_json: bool) -> None:
    """Print the least time a tile can take on cards that are not at hand: modelled, not measured."""
    rows = model(size, nuclei)
    if as_json:
        points = list(passes(own_manifest(size)))
        document = {"size": size, "nuclei": nuclei, "points": points, "measured": False, "how": MODELLED, "rows": rows}
        print_json(document)
        return
    console = Console(highlight=False)
    title = f"PromptNucSeg-{size}, {nuclei} nuclei, each decoded {DECODED[len(passes(own_manifest(size)))]}"
    table = Table(box=None, title=title, title_justify="left", pad_edge=False)
    for column in ("card", "precision"):
        table.add_column(column)
    for column in ("least ms", "FPS allowed"):
        table.add_column(column, justify="right")
    table.add_column("bound by")
    for row in rows:
        table.add_row(*cells(row), bounds(row["graphs"]))
    console.print(table)
    console.print(MODELLED, style="dim")
    if printed := TABLE5.get(f"PromptNucSeg-{size}"):
        limit = next(r["fps_allowed"] for r in rows if r["card"] == "RTX 3090" and r["precision"] == "FP32")
        share = f"{100 * printed.fps / limit:.0f}% of what FP32 allows"
        console.print(f"The paper prints {printed.fps:.0f} FPS on an RTX 3090, {share}.", style="dim")


def cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Card, precision, least time and what it allows of a row, as text."""
    return row["card"], row["precision"], f"{row['least_ms']:.3g}", f"{row['fps_allowed']:.0f}"


def bounds(graphs: Mapping[str, Mapping[str, Any]]) -> str:
    """What bounds the graphs, and which ones where they differ."""
    kinds: dict[str, list[str]] = {}
    for graph, told in graphs.items():
        kinds.setdefault(told["bound"], []).append(graph)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())
