"""Each step of the pipeline twice: in NumPy, as the runtime does it, and by the emulated kernels, bit for bit the same.

Every ``check_…`` raises where they differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime import metrics
from pnseg_runtime.assign import batches, window_prompts
from pnseg_runtime.bundle import Normalisation
from pnseg_runtime.masks import DecodedMasks, best_per_point, crop_masks, tighten, touches_inner_border
from pnseg_runtime.nms import suppress_boxes, suppress_masks
from pnseg_runtime.painting import largest_piece, paint
from pnseg_runtime.pixels import normalise
from pnseg_runtime.prompts import decode_points, filter_by_region, image_anchors, suppress_points
from pnseg_runtime.windows import MacroTile, cut, mirror, windows
from tests.runtime.cuda.emulated import Emulator

JUNK = 0xCD


def junk(*shape: int, dtype: Any = np.int32) -> NDArray[Any]:
    """Memory as it comes: filled with what no kernel may rely on."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = JUNK
    return array


def one(value: int) -> NDArray[np.int32]:
    return np.array([value], np.int32)


def packed(masks: list[NDArray[np.bool_]]) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.int32]]:
    """Bits of masks in one pool, the offset and words of each."""
    parts = [pack(mask) for mask in masks]
    words = np.array([len(part) for part in parts], np.int32)
    pool = np.concatenate([np.empty(0, np.uint32), *parts, junk(5, dtype=np.uint32)])
    return pool, (np.cumsum(words) - words).astype(np.int32), words


def pack(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    height, width = mask.shape
    padded = np.zeros((height, -(-width // 32) * 32), bool)
    padded[:, :width] = mask
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.uint32).ravel()


def unpack(words: NDArray[np.uint32], box: Any) -> NDArray[np.bool_]:
    width, height = int(box[2] - box[0]), int(box[3] - box[1])
    if not width or not height:
        return np.zeros((0, 0), bool)
    row = -(-width // 32)
    bits = np.unpackbits(
        words[: row * height].astype("<u4").view(np.uint8).reshape(height, -1), axis=1, bitorder="little"
    )
    assert not bits[:, width:].any(), "bits beyond the mask"
    return bits[:, :width].astype(bool)


def same(found: Any, expected: Any) -> None:
    """Equal in every bit (and so where both are no number)."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    np.testing.assert_array_equal(found, expected)
    if found.dtype == expected.dtype == np.float32:
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def check_normalise(run: Emulator, image: NDArray[np.uint8], window: int, overlap: int, threads: int = 256) -> None:
    norm = Normalisation()
    height, width = image.shape[:2]
    origins = windows((height, width), window, overlap)
    views = np.zeros((len(origins) + 1, 4), np.int32)  # the last one is none
    views[:-1, :2] = origins
    views[:-1, 2:] = np.minimum(np.array([width, height]) - origins, window)
    out = junk(len(views), 3, window, window, dtype=np.float32)
    frame = np.array([height, width], np.int32)
    run("normalise_windows", (3, len(views)), threads, image, frame, views, window, window, *norm.mean, *norm.std, out)
    same(out[:-1], normalise(cut(image, origins, window), norm))
    assert not out[-1].any()


def check_view(
    run: Emulator, image: NDArray[np.uint8], view: tuple[int, int, int, int], padded: tuple[int, int]
) -> None:
    """What the prompter sees of a part (x0, y0, x1, y1) of an image, mirrored up to (height, width)."""
    norm = Normalisation()
    x0, y0, x1, y1 = view
    out = junk(1, 3, *padded, dtype=np.float32)
    frame = np.array(image.shape[:2], np.int32)
    views = np.array([[x0, y0, x1 - x0, y1 - y0]], np.int32)
    run("normalise_windows", (2, 1), 128, image, frame, views, *padded, *norm.mean, *norm.std, out)
    same(out, normalise(mirror(image[y0:y1, x0:x1], padded)[None], norm))


def check_decode(
    run: Emulator,
    raw: dict[str, NDArray[np.float32]],
    shape: tuple[int, int],
    spacing: int,
    tile: MacroTile | None = None,
    sensitivity: float = 0.0,
    threshold: float = 0.0,
    filtered: bool = True,
) -> int:
    """``raw``: points (M, 2), class_logits (M, C + 1), region_logits (padded height, padded width)."""
    padded = raw["region_logits"].shape
    tile = tile or MacroTile((0, 0, shape[1], shape[0]), (0, 0, shape[1], shape[0]))
    x, y = tile.view[:2]
    own = [image_anchors(raw[name], padded, shape, spacing) for name in ("points", "class_logits")]
    points = decode_points(*own, shape, sensitivity)
    points = points.select(points.scores >= threshold)
    if filtered:
        points = points.select(filter_by_region(points.coords, raw["region_logits"]))
    points = points.shifted((x, y))
    points = points.select(tile.owns(points.coords))

    rows, columns = (-(-side // spacing) for side in shape)
    anchors = rows * columns
    coords, kinds, scores, keep = (
        junk(anchors, 2, dtype=np.float32),
        junk(anchors),
        junk(anchors, dtype=np.float32),
        junk(anchors),
    )
    classes = raw["class_logits"].shape[1]
    run(
        "decode_anchors", 2, 96, raw["points"], raw["class_logits"], raw["region_logits"], rows, columns,
        padded[1] // spacing, classes, padded[1], x, y, shape[1], shape[0], *tile.core, float(sensitivity),
        float(threshold), int(filtered), coords, kinds, scores, keep,
    )  # fmt: skip
    before = 3
    out_coords, out_kinds = junk(anchors + before, 2, dtype=np.float32), junk(anchors + before)
    out_scores, total = junk(anchors + before, dtype=np.float32), one(before)
    run("compact_points", 1, 256, coords, kinds, scores, keep, None, anchors, out_coords, out_kinds, out_scores, total)
    assert total[0] == before + len(points)
    part = slice(before, int(total[0]))
    same(out_coords[part], points.coords)
    same(out_kinds[part], points.classes)
    same(out_scores[part], points.scores)
    return len(points)


def check_suppress_points(
    run: Emulator, coords: NDArray[np.float32], scores: NDArray[np.float32], radius: float, threads: int = 128
) -> None:
    n = len(coords)
    side = max(radius * 1.001, 8.0)
    columns, rows = (int(limit / side) + 1 for limit in np.max(coords, axis=0, initial=0))
    counts, starts = np.zeros(rows * columns, np.int32), junk(rows * columns + 1)
    members, state = junk(n + 1), np.zeros(n + 1, np.int32)
    run("count_cells", 2, threads, coords, one(n), side, columns, counts)
    run("scan_counts", 1, threads, counts, rows * columns, starts)
    run("fill_cells", 2, threads, coords, one(n), side, columns, starts, counts, members)
    assert not counts.any()
    assert sorted(members[:n]) == list(range(n))
    run("settle_points", 1, threads, coords, scores, one(n), radius, side, columns, rows, starts, members, state)
    expected = suppress_points(coords, scores, radius)
    same(state[:n] == 1, expected)


def check_prompts(
    run: Emulator,
    coords: NDArray[np.float32],
    shape: tuple[int, int],
    window: int,
    overlap: int,
    negatives: int,
    assignment: Any,
    batch_size: int = 3,
    wide: bool = True,
) -> None:
    n, origins = len(coords), windows(shape, window, overlap)
    origins32, frame, count = origins.astype(np.int32), np.array(shape, np.int32), one(n)
    everywhere = int(assignment == "all")
    expected = window_prompts(coords, origins, window, shape, negatives, assignment)
    central, counts, starts = junk(n + 1), junk(len(origins)), junk(len(origins) + 1)
    run("find_central_windows", 2, 64, coords, count, origins32, len(origins), window, frame, central)
    run("count_prompts", len(origins), 64, coords, count, origins32, window, central, everywhere, counts)
    run("scan_counts", 1, 64, counts, len(origins), starts)
    total = int(starts[-1])
    assert total == len(expected[0])
    points, holders = junk(total + 1), junk(total + 1)
    run(
        "list_prompts", len(origins), 64, coords, count, origins32, window, central, everywhere, starts, points, holders
    )
    same(points[:total], expected[0].points)
    same(holders[:total], expected[0].windows)
    for batch in batches(expected[0], batch_size):
        for each, k in zip(expected, [negatives, 0] if negatives else [0], strict=True):
            for part in each.within(batch, 100):
                tensors = part.tensors(batch)
                first = int(
                    np.flatnonzero((points[:total] == part.points[0]) & (holders[:total] == part.windows[0]))[0]
                )
                places = len(part) + 3
                job = np.concatenate([[first, len(part), 0, len(batch)], batch, [7] * 4]).astype(np.int32)
                out, labels = junk(places, 1 + k, 2, dtype=np.float32), junk(places, 1 + k, dtype=np.float32)
                index = junk(places, dtype=np.int64 if wide else np.int32)
                both = (index, None) if wide else (None, index)
                run("point_prompts", -(-places // 128), 128, coords, count, origins32, window, points, holders, job,
                    places, k, out, labels, *both)  # fmt: skip
                same(out[: len(part)], tensors["point_coords"])
                same(labels[: len(part)], tensors["point_labels"])
                same(index[: len(part)], tensors["image_index"])
                assert not out[len(part) :].any()
                assert (labels[len(part) :] == -1).all()
                assert not index[len(part) :].any()


def check_masks(
    run: Emulator,
    logits: NDArray[np.float32],
    origins: NDArray[np.int64],
    window: int,
    shape: tuple[int, int],
    border: int = 7,
    threads: int = 64,
    missing: int = 0,
) -> DecodedMasks:
    """One mask a window; ``missing``: words that the pool lacks."""
    n, size = len(logits), logits.shape[-1]
    expected_boxes, expected = crop_masks(logits, origins, window, shape)
    whole = ~touches_inner_border(expected_boxes, origins, window, shape, border)
    whole &= expected_boxes[:, 0] < expected_boxes[:, 2]
    first, places = 2, n + 2
    job = np.array([0, n, first, 0], np.int32)
    frame, origins32 = np.array(shape, np.int32), np.ascontiguousarray(origins, np.int32)
    points, holders = np.arange(n, dtype=np.int32) + 10, np.arange(n, dtype=np.int32)
    ious = np.linspace(0, 1, n, dtype=np.float32)
    full = np.concatenate([logits, np.ones((2, size, size), np.float32)])  # places behind the last prompt
    record_points, record_ious = junk(n + 9), junk(n + 9, dtype=np.float32)
    boxes, words, offsets, pool = junk(n + 9, 4), junk(n + 9), junk(n + 9), one(17)
    run("box_masks", places, threads, full, np.append(ious, junk(2, dtype=np.float32)), size, window, border, job,
        frame, origins32, points, holders, record_points, record_ious, boxes, words)  # fmt: skip
    part = slice(first, first + n)
    same(record_points[part], points)
    same(record_ious[part], ious)
    empty = expected_boxes[:, 0] >= expected_boxes[:, 2]
    same(boxes[part][~empty], expected_boxes[~empty])
    wanted = int(words[part].sum())
    run("place_masks", 1, threads, job, 17 + wanted - missing, words, offsets, pool)
    assert pool[0] == 17 + wanted
    bits = junk(17 + wanted - missing + 1, dtype=np.uint32)
    untouched = bits.copy()
    run("write_masks", places, threads, full, size, window, job, origins32, holders, boxes, words, offsets, bits)
    same(bits[:17], untouched[:17])
    same(bits[-1], untouched[-1])
    fits = offsets[part] + np.where(whole, [len(pack(mask)) for mask in expected], 0) <= 17 + wanted - missing
    assert fits.all() or missing
    same(words[part] > 0, whole & fits)
    for index in np.flatnonzero(whole & fits):
        offset = offsets[first + index]
        same(unpack(bits[offset : offset + words[first + index]], boxes[first + index]), expected[index])
    return DecodedMasks(np.arange(n), ious, expected_boxes, expected).select(whole)


def check_tidy(run: Emulator, masks: list[NDArray[np.bool_]], threads: int = 64) -> None:
    """All three ways, on masks of any shape that need not fit their boxes."""
    n = len(masks)
    places = np.random.default_rng(n).integers(0, 500, (n, 2))
    before = np.array(
        [(x, y, x + m.shape[1], y + m.shape[0]) for (x, y), m in zip(places, masks, strict=True)], np.int32
    )
    for mode in range(3):
        pool, offsets, words = packed(masks)
        boxes, scratch = before.reshape(-1, 4).copy(), [junk(len(pool), dtype=np.uint32) for _ in range(3)]
        chosen = np.arange(n, dtype=np.int32)[::-1].copy()
        run("tidy_masks", n + 1, threads, chosen, one(n), offsets, mode, boxes, words, pool, *scratch)
        for index, mask in enumerate(masks):
            left = largest_piece(mask, fill=mode == 2) if mode else mask
            box, expected = tighten(left, (int(before[index, 0]), int(before[index, 1])))
            same(boxes[index], box)
            assert words[index] == len(pack(expected)) if expected.size else words[index] == 0
            same(unpack(pool[offsets[index] :], box), expected)


def check_match(
    run: Emulator, points: NDArray[np.int64], ious: NDArray[np.float32], dropped: NDArray[np.bool_], threshold: float
) -> None:
    count = int(points.max(initial=-1)) + 2
    words = np.where(dropped, 0, 3).astype(np.int32)
    stay = np.flatnonzero(~dropped)
    expected = stay[best_per_point(points[stay], ious[stay])]
    expected = expected[ious[expected] >= threshold]
    best = np.zeros(count, np.uint64)
    run("match_duplicates", 2, 64, points.astype(np.int32), ious, words, len(points), best)
    chosen, chosen_ious, total = junk(count), junk(count, dtype=np.float32), junk(1)
    run("choose_masks", 1, 64, best, ious, count, float(threshold), chosen, chosen_ious, total)
    same(chosen[: int(total[0])], expected)
    same(chosen_ious[: int(total[0])], ious[expected])


def check_boxes(run: Emulator, boxes: NDArray[np.int32], ious: NDArray[np.float32], threshold: float) -> None:
    masks = [np.zeros((0, 0), np.bool_)] * len(boxes)
    same(suppressed(run, boxes, masks, ious, threshold, by_masks=False), suppress_boxes(boxes, ious, threshold))


def check_shares(
    run: Emulator, boxes: NDArray[np.int32], masks: list[NDArray[np.bool_]], ious: NDArray[np.float32], threshold: float
) -> None:
    expected = suppress_masks(boxes, masks, ious, threshold)
    same(suppressed(run, boxes, masks, ious, threshold, by_masks=True), expected)


def suppressed(
    run: Emulator,
    boxes: NDArray[np.int32],
    masks: list[NDArray[np.bool_]],
    ious: NDArray[np.float32],
    threshold: float,
    by_masks: bool,
) -> NDArray[np.bool_]:
    """Which of a number of nuclei stay; their records lie in another order."""
    n, row = len(boxes), max(-(-len(boxes) // 64), 1)
    chosen = np.random.default_rng(n).permutation(n).astype(np.int32)
    placed = np.ascontiguousarray(np.empty_like(boxes).reshape(-1, 4))
    placed[chosen] = boxes
    bits, starts, _ = packed(masks)
    offsets = junk(n + 1)
    offsets[chosen] = starts[:n]
    rank, order, keep = junk(n + 1), junk(n + 1), junk(n + 1)
    strip = int(np.random.default_rng(n + 1).integers(1, row + 1))
    conflicts, removed = junk(64 * strip, row, dtype=np.uint64), np.zeros(row, np.uint64)
    run("rank_values", n // 256 + 1, 256, ious, one(n), rank, order)
    same(order[:n], np.argsort(-ious.astype(np.float64), kind="stable"))
    same(rank[:n][order[:n]], np.arange(n))
    for start in range(0, row, strip):
        run("find_conflicts", (row, strip), 64, placed, chosen, order, one(n), offsets, bits, float(threshold),
            int(by_masks), row, start, conflicts)  # fmt: skip
        run("reduce_conflicts", 1, 64, conflicts, order, one(n), row, start, strip, removed, keep)
    return keep[:n] == 1


def check_paint(
    run: Emulator,
    boxes: NDArray[np.int32],
    masks: list[NDArray[np.bool_]],
    ious: NDArray[np.float32],
    keep: NDArray[np.bool_],
    shape: tuple[int, int],
    tidy: bool,
) -> None:
    n = len(boxes)
    rng = np.random.default_rng(n)
    left = np.flatnonzero(keep)
    kept, visible_boxes, visible = paint(boxes[left], [masks[i] for i in left], ious[left], shape, tidy)
    order = np.argsort(-ious.astype(np.float64), kind="stable").astype(np.int32)
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n)
    order, rank = np.append(order, junk(1)), np.append(rank, junk(1))
    pool, offsets, words = packed(masks)
    chosen, count, frame = np.arange(n, dtype=np.int32), one(n), np.array(shape, np.int32)
    placed, stays = boxes.reshape(-1, 4).copy(), keep.astype(np.int32)
    canvas = np.full(shape, 0x7F7F7F7F, np.int32)
    run("paint_masks", n + 1, 64, chosen, stays, rank, count, placed, words, offsets, pool, frame, canvas)
    run("uncover_masks", n + 1, 64, chosen, stays, rank, count, placed, words, offsets, pool, frame, canvas)
    scratch = [junk(len(pool), dtype=np.uint32) for _ in range(3)]
    run("tidy_masks", n + 1, 64, chosen, count, offsets, int(tidy), placed, words, pool, *scratch)
    rows, starts, totals = junk(n + 1), junk(n + 1), junk(2)
    run("order_nuclei", 1, 64, chosen, order, count, words, rows, starts, totals)
    nuclei, bits = junk(int(totals[0]) + 1, 10), junk(int(totals[1]) + 1, dtype=np.uint32)
    coords, kinds = rng.random((n, 2), np.float32), rng.integers(0, 9, n).astype(np.int32)
    scores = rng.random(n, np.float32)
    run("emit_nuclei", n + 1, 64, chosen, count, rows, starts, chosen, ious, placed, words, offsets, pool, coords,
        kinds, scores, nuclei, bits)  # fmt: skip
    assert totals[0] == len(kept)
    assert (nuclei[-1] == junk(10)).all()
    assert bits[-1] == junk(1, dtype=np.uint32)[0]
    nuclei = nuclei[:-1]
    index = left[kept]
    same(nuclei[:, :2].copy().view(np.float32), coords[index])
    same(nuclei[:, 2], kinds[index])
    same(nuclei[:, 3].copy().view(np.float32), scores[index])
    same(nuclei[:, 4].copy().view(np.float32), ious[index])
    same(nuclei[:, 5:9], visible_boxes)
    for row, mask in zip(nuclei, visible, strict=True):
        same(unpack(bits[row[9] :], row[5:9]), mask)


def check_overlaps(run: Emulator, truth: NDArray[np.int32], prediction: NDArray[np.int32]) -> None:
    """Label maps with consecutive labels."""
    n, m = int(truth.max(initial=0)), int(prediction.max(initial=0))
    table = np.zeros((n + 1, m + 1), np.int32)
    areas = [np.zeros(n + 1, np.int32), np.zeros(m + 1, np.int32)]
    run("count_overlaps", 3, 64, truth, prediction, truth.size, m + 1, table, *areas)
    same(table, np.histogram2d(truth.ravel(), prediction.ravel(), [np.arange(n + 2) - 0.5, np.arange(m + 2) - 0.5])[0])
    same(areas[0], table.sum(axis=1))
    same(areas[1], table.sum(axis=0))
    matches = junk(n + 1, 3)
    run("match_overlaps", n // 2 + 1, 64, table, *areas, n, m + 1, matches)
    assert (matches[-1] == junk(3)).all()
    expected = np.zeros((n, 3), np.int32)
    pairs = metrics.overlaps(truth, prediction)
    good = pairs.iou > 0.5
    expected[pairs.truth[good]] = np.stack([pairs.prediction + 1, pairs.intersection, pairs.union], axis=1)[good]
    same(matches[:-1], expected)
