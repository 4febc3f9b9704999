"""From a label map to the maps that a perfect network of each kind would give for it."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from benchmarks.peers import Labels

Map = NDArray[np.float32]


def boxes(labels: Labels) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Every nucleus and its (rows, columns)."""
    for index, found in enumerate(find_objects(labels), start=1):
        if found is not None:
            yield index, found


def distance(labels: Labels) -> Map:
    """(H, W) distance of a nucleus's pixels from its outside, 1 at its deepest; 0 in the background."""
    out = np.zeros(labels.shape, np.float32)
    for index, (rows, columns) in boxes(labels):
        mask = labels[rows, columns] == index
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        out[rows, columns][mask] = (depth / depth.max())[mask]
    return out


def star_rays(labels: Labels, rays: int, limit: int = 256) -> Map:
    """(rays, H, W) px from a nucleus's pixel to the end of its nucleus along each ray; 0 in the background.

    Ray k points to (cos, sin) of 2πk/rays, x to the right and y down.
    """
    height, width = labels.shape
    out = np.zeros((rays, height, width), np.float32)
    y, x = np.nonzero(labels)
    own = labels[y, x]
    for k in range(rays):
        dx, dy = np.cos(2 * np.pi * k / rays), np.sin(2 * np.pi * k / rays)
        inside = np.arange(len(y))
        for step in range(1, limit):
            at_x, at_y = np.rint(x[inside] + step * dx).astype(int), np.rint(y[inside] + step * dy).astype(int)
            within = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
            within[within] = labels[at_y[within], at_x[within]] == own[inside[within]]
            inside = inside[within]
            if not inside.size:
                break
            out[k, y[inside], x[inside]] = step
        out[k, y, x] += 0.5  # the outline runs between the last pixel and the next
    return out


def hover(labels: Labels) -> Map:
    """(2, H, W): distance from the centre of its nucleus along x and y, −1 to 1 in each; 0 in the background."""
    out = np.zeros((2, *labels.shape), np.float32)
    for index, (rows, columns) in boxes(labels):
        y, x = np.nonzero(labels[rows, columns] == index)
        for axis, values in enumerate((x, y)):
            offset = values - np.rint(values.mean())
            for side in (offset < 0, offset > 0):
                if side.any():
                    out[axis, rows.start + y[side], columns.start + x[side]] = offset[side] / np.abs(offset[side]).max()
    return out


def class_scores(classes: Labels, count: int) -> Map:
    """(1 + count, H, W) one-hot of a (H, W) class map, background first."""
    return (np.arange(1 + count)[:, None, None] == classes).astype(np.float32)


def centre_cells(labels: Labels, stride: int) -> Iterator[tuple[int, slice, slice]]:
    """Every nucleus with the rows and columns of grid cells around its centre, a fifth of its box, at least one."""
    height, width = labels.shape
    for index, (rows, columns) in boxes(labels):
        y, x = np.nonzero(labels[rows, columns] == index)
        spans = []
        for start, values, size in ((rows.start, y, height), (columns.start, x, width)):
            centre, reach = start + values.mean(), 0.1 * np.ptp(values)
            first, last = (int(np.clip((centre + way * reach) // stride, 0, size // stride - 1)) for way in (-1, 1))
            spans.append(slice(first, last + 1))
        yield index, spans[0], spans[1]
