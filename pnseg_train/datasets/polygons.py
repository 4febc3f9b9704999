"""Polygons → label maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pnseg_train.datasets.sample import consecutive

Polygon = NDArray[np.float64]


def paint_polygons(polygons: Iterable[Polygon], shape: tuple[int, int]) -> NDArray[np.int32]:
    """The label map (H, W) of nuclei given as polygons, ids 1..N.

    Where two overlap, the later one lies on top. A polygon that holds no pixel's centre, lies outside
    the image or is covered by others leaves no trace and takes no id.
    """
    labels = np.zeros(shape, np.int32)
    for label, polygon in enumerate(polygons, start=1):
        (left, top), mask = fill_polygon(polygon, shape)
        labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = label
    return consecutive(labels)


def fill_polygon(polygon: Polygon, shape: tuple[int, int]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """The pixels whose centres lie inside a polygon.

    Coordinates are those of pixel edges: pixel (0, 0) covers [0, 1] × [0, 1] and has its centre at
    (0.5, 0.5). A centre exactly on a border belongs to the polygon below or right of it, so two
    polygons that share an edge share no pixel and leave none between them. Inside is where the
    winding number is not 0: the loop that a pen makes where an outline is closed is no hole.

    Args:
        polygon: (V, 2) vertices (x, y), px, closed or not.
        shape: (H, W) of the image; what lies outside is cut off.

    Returns:
        (x, y) of the first pixel of the polygon's box, and the mask (h, w) in that box.
    """
    # From here on pixel centres lie at integers.
    starts = np.asarray(polygon, np.float64) - 0.5
    if not len(starts):
        return (0, 0), np.zeros((0, 0), np.bool_)
    limits = np.array(shape[::-1])
    first = np.clip(np.ceil(starts.min(axis=0)), 0, limits).astype(np.int64)
    stop = np.clip(np.floor(starts.max(axis=0)) + 1, first, limits).astype(np.int64)
    width, height = (stop - first).tolist()
    starts = starts - first
    ends = np.roll(starts, -1, axis=0)
    # An edge meets the rows from its upper vertex, included, to its lower one, excluded.
    row, edge = np.nonzero((starts[:, 1] <= np.arange(height)[:, None]) != (ends[:, 1] <= np.arange(height)[:, None]))
    (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
    crossing = x0 + (row - y0) / (y1 - y0) * (x1 - x0)
    # The winding number changes at the first centre on or right of a crossing.
    turns = np.zeros((height, width + 1), np.int64)
    np.add.at(turns, (row, np.clip(np.ceil(crossing), 0, width).astype(np.int64)), np.where(y1 > y0, 1, -1))
    left, top = first.tolist()
    return (left, top), np.cumsum(turns, axis=1)[:, :width] != 0
