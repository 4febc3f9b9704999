"""Which window decodes which point, and with which negative prompts (§3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.options import Assignment
from pnseg_runtime.prompts import Coordinates, nearest_negatives
from pnseg_runtime.windows import Origins, memberships, most_central


@dataclass(frozen=True)
class WindowPrompts:
    """P prompts in their windows, ordered by window.

    Attributes:
        points: (P,) index of the point that each is about.
        windows: (P,) index of the window that it is decoded in.
        coords: (P, n, 2) float32, positive point and negative ones, px in that window.
        labels: (P, n) float32, 1 positive, 0 negative, −1 missing.
    """

    points: NDArray[np.intp]
    windows: NDArray[np.intp]
    coords: Coordinates
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)

    def select(self, which: NDArray[np.bool_] | slice) -> WindowPrompts:
        """The prompts chosen by a mask or a slice."""
        return WindowPrompts(self.points[which], self.windows[which], self.coords[which], self.labels[which])

    def within(self, batch: NDArray[np.intp], size: int) -> Iterator[WindowPrompts]:
        """The prompts of consecutive windows (ascending indices), at most ``size`` at a time."""
        start, stop = np.searchsorted(self.windows, [batch[0], batch[-1] + 1])
        for first in range(start, stop, size):
            yield self.select(slice(first, min(first + size, stop)))

    def tensors(self, batch: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """The decoder's inputs, with the place of each prompt's window in the batch."""
        return {
            "point_coords": self.coords,
            "point_labels": self.labels,
            "image_index": np.searchsorted(batch, self.windows).astype(np.int64),
        }


def window_prompts(
    coords: Coordinates,
    origins: Origins,
    window: int,
    shape: tuple[int, int],
    negatives: int,
    assignment: Assignment = "central",
) -> list[WindowPrompts]:
    """Every point with its K nearest of the same window as negatives, and again without any.

    Args:
        coords: (N, 2) float32, points of the image, px.
        origins: (n, 2), windows, px.
        window: px.
        shape: (height, width) of the image, px.
        negatives: K.
        assignment: whether a point is decoded in its most central window or in all that hold it.
            Either way every point of a window can be a negative prompt there.

    Returns:
        The prompts with negatives, if K > 0, and the positive ones alone; on the same points and
        windows in the same order.
    """
    points, holders = memberships(coords, origins, window)
    local = coords[points] - origins[holders].astype(np.float32)
    decoded = np.ones(len(points), np.bool_)
    if assignment == "central":
        decoded = holders == most_central(coords, origins, window, shape)[points]
    bounds = np.flatnonzero(np.diff(holders)) + 1
    return [
        WindowPrompts(points, holders, *_prompts(local, bounds, count)).select(decoded)
        for count in ([negatives, 0] if negatives else [0])
    ]


def _prompts(local: Coordinates, bounds: NDArray[np.intp], negatives: int) -> tuple[Coordinates, NDArray[np.float32]]:
    """Coordinates and labels of all points, window by window."""
    parts = [nearest_negatives(part, negatives) for part in np.split(local, bounds)]
    return np.concatenate([coords for coords, _ in parts]), np.concatenate([labels for _, labels in parts])


def batches(prompts: WindowPrompts, size: int) -> Iterator[NDArray[np.intp]]:
    """The windows that have prompts, ascending, at most ``size`` at a time and about as many each time."""
    used = np.unique(prompts.windows)
    if len(used):
        yield from np.array_split(used, -(-len(used) // size))
