"""Which networks run on what, once it is known how many prompts each window has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Smallest batch of prompts that a graph is made for.
FEWEST_PROMPTS = 16


@dataclass(frozen=True)
class DecoderCall:
    """Prompts that are decoded together.

    Attributes:
        first: index of the first prompt.
        count: prompts.
        places: of the batch that runs, at least ``count``.
        negatives: K of this pass.
        record: index of the first mask's record.
    """

    first: int
    count: int
    places: int
    negatives: int
    record: int


@dataclass(frozen=True)
class WindowBatch:
    """Windows that are encoded together, and the prompts that are decoded in them.

    Attributes:
        windows: (b,) indices of windows, ascending.
        places: of the batch that runs, at least b.
        calls: of the decoder, pass by pass.
    """

    windows: NDArray[np.intp]
    places: int
    calls: list[DecoderCall]


def bucket(count: int, smallest: int, largest: int) -> int:
    """The batch that runs for ``count`` items: the next power of two from ``smallest`` on, or ``largest``."""
    size = smallest
    while size < count:
        size *= 2
    return min(size, largest)


def window_batches(
    starts: NDArray[np.integer], window_batch: int, prompt_batch: int, passes: list[int]
) -> list[WindowBatch]:
    """Batches of the windows that have prompts, in the order of :meth:`pnseg_runtime.pipeline.Pipeline.predict`.

    Args:
        starts: (windows + 1,), the prompts of window w are ``starts[w]`` to ``starts[w + 1] - 1``.
        window_batch: windows that are encoded together, at most.
        prompt_batch: prompts that are decoded together, at most.
        passes: K of each pass over the prompts.
    """
    used = np.flatnonzero(np.diff(starts))
    batches, record = [], 0
    for begin in range(0, len(used), window_batch):
        batch = used[begin : begin + window_batch]
        start, stop = int(starts[batch[0]]), int(starts[batch[-1] + 1])
        calls = []
        for negatives in passes:
            for first in range(start, stop, prompt_batch):
                count = min(prompt_batch, stop - first)
                places = bucket(count, min(FEWEST_PROMPTS, prompt_batch), prompt_batch)
                calls.append(DecoderCall(first, count, places, negatives, record))
                record += count
        batches.append(WindowBatch(batch, bucket(len(batch), 1, window_batch), calls))
    return batches


def job_rows(batch: WindowBatch, width: int) -> NDArray[np.int32]:
    """(calls, 4 + width) int32: what the kernels are told of each decoder call (``Job`` in common.cuh)."""
    rows = np.zeros((len(batch.calls), 4 + width), np.int32)
    for row, call in zip(rows, batch.calls, strict=True):
        row[:4] = call.first, call.count, call.record, len(batch.windows)
        row[4 : 4 + len(batch.windows)] = batch.windows
    return rows
