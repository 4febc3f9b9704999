"""Random inputs that are as awkward as real ones: ties, borders, specks, holes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pnseg_runtime.masks import tighten

Random = np.random.Generator


def prompter_outputs(
    rng: Random, shape: tuple[int, int], spacing: int, classes: int
) -> tuple[dict[str, NDArray[np.float32]], tuple[int, int]]:
    """Outputs for an image that is padded to a multiple of 32, and the padded shape."""
    padded = tuple(-(-side // 32) * 32 for side in shape)
    rows, columns = (side // spacing for side in padded)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    points = (grid + 0.5) * spacing + rng.normal(scale=spacing, size=grid.shape)
    logits = rng.normal(scale=rng.choice([1, 5, 30]), size=(len(grid), classes))
    region = rng.normal(size=padded)
    raw = {"points": points, "class_logits": logits, "region_logits": region}
    return {name: value.astype(np.float32) for name, value in raw.items()}, (padded[0], padded[1])


def points(rng: Random, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates and scores, many of them equal or exactly a whole distance apart."""
    spread = float(rng.choice([20, 80, 200]))
    coords = rng.random((n, 2)) * spread
    if rng.random() < 0.5:
        coords = np.round(coords)
    scores = rng.random(n)
    if rng.random() < 0.5:
        scores = np.round(scores, 1)
    return coords.astype(np.float32), scores.astype(np.float32)


def distinct_points(rng: Random, n: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Coordinates inside an image, of which no two are equal; half of them whole numbers, as ties want it."""
    height, width = shape
    places = rng.permutation(height * width)[:n]
    coords = np.stack([places % width, places // width], axis=1).astype(np.float32)
    if rng.random() < 0.5:
        moved = coords + rng.random((n, 2)).astype(np.float32) * 0.9
        coords = np.minimum(moved, np.array([width - 1, height - 1], np.float32))
        coords = coords[np.sort(np.unique(coords, axis=0, return_index=True)[1])]
    return coords


def logits(rng: Random, n: int, size: int) -> NDArray[np.float32]:
    """Smooth blobs, some at the borders, some of several pieces, some nowhere positive."""
    noise = [gaussian_filter(rng.normal(size=(size, size)), size / 10) * size / 5 for _ in range(n)]
    shifts = rng.choice([0.2, 0.6, 1.5, 9], n)
    return np.stack([each - shift for each, shift in zip(noise, shifts, strict=True)] or [np.empty((size, size))])[
        :n
    ].astype(np.float32)


def specks(rng: Random, n: int, size: int) -> NDArray[np.float32]:
    """Logits of small masks anywhere, so that many end near a border but do not reach it."""
    values = np.full((n, size, size), -1, np.float32)
    for each, (y, x) in zip(values, rng.integers(0, size - 1, (n, 2)), strict=True):
        each[y : y + 2, x : x + 2] = rng.random((2, 2)) * rng.choice([0.2, 1, 3, 10])
    return values


def boxes(rng: Random, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Boxes of like sizes that overlap a lot, and predicted IoUs with ties."""
    corners = rng.integers(0, int(rng.choice([15, 60, 150])), (n, 2))
    sides = rng.integers(1, int(rng.choice([4, 20, 60])), (n, 2))
    ious = rng.choice(np.array([0.2, 0.5, 0.7, 0.9], np.float32), n) if rng.random() < 0.5 else rng.random(n)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.int32), ious.astype(np.float32)


def placed_masks(
    rng: Random, n: int, shape: tuple[int, int]
) -> tuple[NDArray[np.int32], list[NDArray[np.bool_]], NDArray[np.float32]]:
    """Masks in boxes that fit, inside an image, and predicted IoUs with ties."""
    rows, masks = [], []
    for _ in range(n):
        width, height = (int(side) for side in rng.integers(1, 45, 2))
        x, y = int(rng.integers(0, shape[1] - width + 1)), int(rng.integers(0, shape[0] - height + 1))
        mask = gaussian_filter(rng.normal(size=(height, width)), 2) > -0.1
        mask[int(rng.integers(height)), int(rng.integers(width))] = True
        box, mask = tighten(mask, (x, y))
        rows.append(box)
        masks.append(mask)
    ious = rng.choice(np.linspace(0, 1, 8, dtype=np.float32), n)
    return np.array(rows, np.int32).reshape(-1, 4), masks, ious


def halves() -> tuple[NDArray[np.int32], list[NDArray[np.bool_]], NDArray[np.float32]]:
    """Masks of any width and place of which every other is half of the one before, and half in it."""
    rows, masks = [], []
    for width in (2, 4, 30, 32, 34, 62, 64, 66, 94):
        x, y = 3 * width, 100 * len(rows)
        rows += [(x, y, x + width, y + 8), (x + width // 2, y + 4, x + width // 2 + width, y + 8)]
        masks += [np.ones((8, width), np.bool_), np.ones((4, width), np.bool_)]
    return np.array(rows, np.int32), masks, np.linspace(1, 0, len(rows), dtype=np.float32)


def rings(rng: Random, width: int) -> NDArray[np.bool_]:
    """Frames inside frames: islands in holes."""
    mask = np.zeros((31, width), bool)
    for inset in range(0, min(31, width) // 2, 2):
        mask[inset : 31 - inset, inset : width - inset] = inset % 4 == 0
    return mask


def spiral(size: int) -> NDArray[np.bool_]:
    """A path one pixel wide that winds to the middle, with gaps one pixel wide."""
    mask: NDArray[Any] = np.zeros((size, size), bool)
    y, x, dy, dx = 0, -1, 0, 1
    length, turns = size, 0
    while length > 0:
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
        turns += 1
        if turns == 1 or turns % 2 == 1:
            length -= 2 if turns > 1 else 1
        if turns == 2:
            length -= 1
    return mask
