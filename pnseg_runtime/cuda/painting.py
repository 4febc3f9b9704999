"""From records of masks to nuclei on the GPU: the device twin of nms.py and painting.py."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.cuda.frame import Frame, Rules
from pnseg_runtime.cuda.points import Prompts
from pnseg_runtime.cuda.records import record_addresses
from pnseg_runtime.cuda.streams import BLOCKS, ONE_BLOCK, THREADS, Streams
from pnseg_runtime.nuclei import Mask

#: Higher than any rank, and four equal bytes.
UNPAINTED = 0x7F
#: Memory for the conflicts of a strip of nuclei with all; more nuclei take more strips, one after another.
CONFLICT_BYTES = 32 << 20
TIGHTEN, LARGEST, LARGEST_FILLED = range(3)
#: A nucleus as it comes from the GPU (``Nucleus`` in paint.cu).
NUCLEUS = np.dtype(
    [
        ("point", np.float32, 2),
        ("kind", np.int32),
        ("score", np.float32),
        ("iou", np.float32),
        ("box", np.int32, 4),
        ("start", np.int32),
    ]
)


def paint(
    streams: Streams, rules: Rules, frame: Frame, prompts: Prompts, records: int, capacity: int
) -> tuple[int, int, int]:
    """The best mask of each point, NMS of masks, painting; leaves ``nuclei`` and the words of their masks, ``visible``.

    Args:
        records: how many there are.
        capacity: words of mask bits that there is room for.

    Returns:
        How many nuclei and words there are, and how many words there would have to be room for.
    """
    settings, n = rules.settings, prompts.points
    record = record_addresses(streams)
    bits, scratch = streams.at("bits"), [streams.at(f"bits.{i}", 4 * capacity) for i in range(3)]
    best, chosen, ious = streams.at("best", 8 * n), streams.at("chosen", 4 * n), streams.at("chosen.ious", 4 * n)
    count, totals = streams.at("chosen.count", 4), streams.at("totals", 12)
    streams.fill(best, 0, 8 * n)
    streams.launch(
        "match_duplicates", BLOCKS, THREADS, record["points"], record["ious"], record["words"], records, best
    )
    streams.launch("choose_masks", 1, ONE_BLOCK, best, record["ious"], n, settings.iou_threshold, chosen, ious, count)

    def tidy(mode: int) -> None:
        streams.launch("tidy_masks", n, THREADS, chosen, count, record["offsets"], mode, record["boxes"],
                       record["words"], bits, *scratch)  # fmt: skip

    if settings.tidy:
        tidy(LARGEST_FILLED)
    rank, order, keep = streams.at("rank", 4 * n), streams.at("order", 4 * n), streams.at("keep", 4 * n)
    row = -(-n // 64)
    strip = min(row, max(CONFLICT_BYTES // (64 * 8 * row), 1))
    conflicts, removed = streams.at("conflicts", 64 * 8 * row * strip), streams.at("removed", 8 * row)
    streams.launch("rank_values", -(-n // 256), 256, ious, count, rank, order)
    by_masks = settings.nms_overlap is not None
    threshold = settings.nms_overlap if by_masks else settings.nms_iou
    streams.fill(removed, 0, 8 * row)
    for start in range(0, row, strip):
        streams.launch("find_conflicts", (row, strip), 64, record["boxes"], chosen, order, count, record["offsets"],
                       bits, threshold, int(by_masks), row, start, conflicts)  # fmt: skip
        streams.launch("reduce_conflicts", 1, THREADS, conflicts, order, count, row, start, strip, removed, keep)

    canvas = streams.at("canvas", 4 * prod(frame.shape))
    streams.fill(canvas, UNPAINTED, 4 * prod(frame.shape))
    painted = (record["boxes"], record["words"], record["offsets"], bits, frame.frame, canvas)
    streams.launch("paint_masks", n, THREADS, chosen, keep, rank, count, *painted)
    streams.launch("uncover_masks", n, THREADS, chosen, keep, rank, count, *painted)
    tidy(LARGEST if settings.tidy else TIGHTEN)
    rows, starts = streams.at("nuclei.rows", 4 * n), streams.at("nuclei.starts", 4 * n)
    nuclei, visible = streams.at("nuclei", NUCLEUS.itemsize * n), streams.at("visible", 4 * capacity)
    streams.launch("order_nuclei", 1, ONE_BLOCK, chosen, order, count, record["words"], rows, starts, totals)
    streams.launch("emit_nuclei", n, THREADS, chosen, count, rows, starts, record["points"], record["ious"],
                   record["boxes"], record["words"], record["offsets"], bits, prompts.coords, prompts.kinds,
                   prompts.scores, nuclei, visible)  # fmt: skip
    streams.move(totals + 8, streams.at("pool"), 4)
    streams.mark("masks")
    found, words, wanted = streams.numbers("totals", 3, totals).tolist()
    return found, words, wanted


def unpack_masks(rows: NDArray[Any], words: NDArray[np.uint32]) -> tuple[Mask, ...]:
    """The masks of nuclei (N,) of :data:`NUCLEUS` from the words of all."""
    return tuple(unpack_mask(words[row["start"] :], row["box"]) for row in rows)


def unpack_mask(words: NDArray[np.uint32], box: NDArray[np.int32]) -> Mask:
    """The mask of a box from rows of whole words, the lowest bit first."""
    width, height = int(box[2] - box[0]), int(box[3] - box[1])
    row = -(-width // 32)
    bits = np.unpackbits(
        words[: row * height].view(np.uint8).reshape(height, -1), axis=1, count=width, bitorder="little"
    )
    return bits.astype(np.bool_)
