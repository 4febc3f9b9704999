"""Optimisation profiles: the shapes an engine takes, in buckets of windows, prompts and image sides.

An engine stalls when a shape changes. The runtime fills a call up to the next bucket's end, so each
bucket is tuned at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pnseg_runtime.bundle import GraphName, ShapeRange

Span = tuple[int, int, int]  # smallest, tuned, largest


@dataclass(frozen=True)
class Buckets:
    """Ends of the buckets, ascending; one begins behind the end of the one before.

    Attributes:
        batches: windows a call of the encoder.
        prompts: prompts a call of the decoder.
        side: largest side of an image that the prompter sees, px.
        negatives: K, negative prompts a point.
    """

    batches: tuple[int, ...] = (1, 8)
    prompts: tuple[int, ...] = (32, 128, 512)
    side: int = 2048
    negatives: int = 1


def profiles(
    graph: GraphName, inputs: Mapping[str, list[int | str]], buckets: Buckets, window: int, multiple: int
) -> list[dict[str, ShapeRange]]:
    """The profiles of one of the networks.

    Args:
        graph: which.
        inputs: a tensor's name → its axes.
        buckets: their ends.
        window: side of a window, px.
        multiple: the prompter's image sides are multiples of it, px.
    """
    return [
        {name: _range(axes, spans) for name, axes in inputs.items()}
        for spans in _spans(graph, buckets, window, multiple)
    ]


def _spans(graph: GraphName, buckets: Buckets, window: int, multiple: int) -> list[dict[str, Span]]:
    if graph == "encoder":
        return [{"batch": span} for span in _consecutive(buckets.batches)]
    if graph == "decoder":
        most = 1 + max(buckets.negatives, 1)
        fixed: dict[str, Span] = {
            "batch": (1, buckets.batches[-1], buckets.batches[-1]),
            "points": (1, 1 + buckets.negatives, most),
        }
        return [{**fixed, "prompts": span} for span in _consecutive(buckets.prompts)]
    tuned = min(-(-1024 // multiple) * multiple, buckets.side)
    sides: list[Span] = [(window, window, window), (max(multiple, 32), tuned, buckets.side)]
    return [{"batch": (1, 1, 1), "height": side, "width": side} for side in sides]


def _consecutive(ends: tuple[int, ...]) -> list[Span]:
    starts = (1, *(end + 1 for end in ends[:-1]))
    return [(start, end, end) for start, end in zip(starts, ends, strict=True)]


def _range(axes: list[int | str], spans: Mapping[str, Span]) -> ShapeRange:
    smallest, tuned, largest = (
        [spans[axis][place] if isinstance(axis, str) else axis for axis in axes] for place in range(3)
    )
    return ShapeRange(smallest=smallest, tuned=tuned, largest=largest)
