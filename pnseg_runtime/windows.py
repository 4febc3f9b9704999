"""Where to look: windows for the segmentor, macro-tiles for the prompter, and who owns a point.

Pure geometry. Boxes are (x0, y0, x1, y1) with x1 and y1 exclusive; points are (x, y) with pixel
centres at integers, so the points of an image lie in [0, W − 1] × [0, H − 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pnseg_runtime.prompts import Coordinates

Origins = NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)


def windows(shape: tuple[int, int], window: int, overlap: int) -> Origins:
    """Square windows that cover an image (§3.3, ε).

    They advance by ``window - overlap``; the last of a row or column is pushed back inside. An
    image smaller than a window has one window there, which reaches beyond it.

    Args:
        shape: (height, width) of the image, px.
        window: side of a window, px.
        overlap: ε, at least what two neighbours share, px, less than ``window``.

    Returns:
        (n, 2) int64, (x, y) of each window's first pixel, row by row.
    """
    ys, xs = (_starts(length, window, window - overlap) for length in shape)
    return np.array([(x, y) for y, x in product(ys, xs)], np.int64)


def _starts(length: int, window: int, stride: int) -> list[int]:
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def cut(image: NDArray[Scalar], origins: Origins, window: int) -> NDArray[Scalar]:
    """The windows' pixels; what lies beyond the image's bottom or right is mirrored (see :func:`mirror`).

    Args:
        image: (H, W, …).
        origins: (n, 2) from :func:`windows`.
        window: px.

    Returns:
        (n, window, window, …) of the image's dtype.
    """
    padded = mirror(image, (max(image.shape[0], window), max(image.shape[1], window)))
    return np.stack([padded[y : y + window, x : x + window] for x, y in origins])


def mirror(image: NDArray[Scalar], shape: tuple[int, int]) -> NDArray[Scalar]:
    """Grow an image at the bottom and right by mirroring, without repeating the edge pixel.

    Sides of one pixel, which have nothing to mirror, repeat it.

    Args:
        image: (H, W, …).
        shape: (height, width) to reach, not less than the image's, px.
    """
    growth = [(0, new - old) for new, old in zip(shape, image.shape, strict=False)]
    if not any(after for _, after in growth):
        return image
    return np.pad(image, growth + [(0, 0)] * (image.ndim - 2), mode="reflect")


def from_first_centres(coords: Coordinates) -> Coordinates:
    """Points on the outer half of an image's first pixels, where rescaling may put them, at those pixels' centres.

    Args:
        coords: (N, 2) float32, px.
    """
    return np.where(coords >= -0.5, np.maximum(coords, 0), coords)


def memberships(coords: Coordinates, origins: Origins, window: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which windows hold which points: x0 ≤ x < x0 + window, likewise y.

    Args:
        coords: (N, 2) float32, px.
        origins: (n, 2), px.
        window: px.

    Returns:
        (R,) indices of points and (R,) of windows, one entry for every point a window holds, by
        window and then by point.
    """
    # A point before the first pixel centre cannot be, so this closed square holds all of a window's.
    reached = cKDTree(coords).query_ball_point(origins + window / 2, window / 2, p=np.inf, return_sorted=True)
    windows_ = np.repeat(np.arange(len(origins)), [len(found) for found in reached])
    points = np.concatenate(reached).astype(np.intp)
    inside = (coords[points] < origins[windows_] + window).all(axis=1)
    return points[inside], windows_[inside]


def most_central(coords: Coordinates, origins: Origins, window: int, shape: tuple[int, int]) -> NDArray[np.intp]:
    """For every point the window that holds it farthest from the borders at which masks are cut.

    Window borders that are image borders do not count; of equally good windows the first is taken.

    Args:
        coords: (N, 2) float32 inside the image, px.
        origins: (n, 2) from :func:`windows`, px.
        window: px.
        shape: (height, width) of the image, px.

    Returns:
        (N,) indices of windows, −1 for a point that no window holds.
    """
    points, candidates = memberships(coords, origins, window)
    before = coords[points] - origins[candidates]
    after = window - 1 - before
    size = np.array(shape[::-1])
    before[origins[candidates] <= 0] = np.inf
    after[origins[candidates] + window >= size] = np.inf
    depth = np.minimum(before, after).min(axis=1)
    order = np.lexsort((candidates, -depth, points))
    held, first = np.unique(points[order], return_index=True)
    chosen = np.full(len(coords), -1, np.intp)
    chosen[held] = candidates[order][first]
    return chosen


@dataclass(frozen=True)
class Part:
    """Where the view of a part lies in a large image, told in numbers as small as the view is.

    An image can be too large for float32 coordinates and for a list of its windows. So the view is
    put into a stand-in for the image, whose windows and borders lie, as far as the view reaches,
    where those of the image do.

    Attributes:
        shift: (x, y) of the view's first pixel in the stand-in, px.
        local_shape: (height, width) of the stand-in, px.
        view: (x0, y0, x1, y1) of the view in the stand-in, px.
        ends: whether the view reaches the image's (right, bottom) border.
    """

    shift: tuple[int, int]
    local_shape: tuple[int, int]
    view: tuple[int, int, int, int]
    ends: tuple[bool, bool]

    @classmethod
    def of(cls, view: tuple[int, int, int, int], shape: tuple[int, int], window: int, overlap: int) -> Part:
        """The part of an image of (height, width) ``shape`` that ``view`` shows, px."""
        stride = window - overlap
        starts, stops, sizes = view[:2], view[2:], shape[::-1]
        # One stride at least stands before the view, and room for a window behind it, unless the image ends there.
        shift = [start if start < stride else stride + start % stride for start in starts]
        ends = [stop >= size for stop, size in zip(stops, sizes, strict=True)]
        last = [offset + stop - start for offset, start, stop in zip(shift, starts, stops, strict=True)]
        width, height = (stop if end else stop + 2 * window for stop, end in zip(last, ends, strict=True))
        return cls((shift[0], shift[1]), (height, width), (*shift, *last), (ends[0], ends[1]))  # type: ignore[arg-type]

    def held(self, origins: Origins, window: int) -> Origins:
        """The windows (n, 2) of the stand-in whose pixels the view holds."""
        x0, y0, x1, y1 = self.view
        inside = (origins >= (x0, y0)) & ((origins + window <= (x1, y1)) | np.array(self.ends))
        return origins[inside.all(axis=1)]


@dataclass(frozen=True)
class MacroTile:
    """A part of a large image: what the prompter sees (``view``) and whose points it owns (``core``)."""

    core: tuple[int, int, int, int]
    view: tuple[int, int, int, int]

    def owns(self, coords: Coordinates) -> NDArray[np.bool_]:
        """(N,) bool: which points (N, 2) in image coordinates lie in the core (lower borders included)."""
        x0, y0, x1, y1 = self.core
        x, y = coords.T
        return (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


def macro_tiles(shape: tuple[int, int], limit: int, margin: int) -> list[MacroTile]:
    """Tiles whose cores partition the image and whose views add a margin of context.

    An image of at most ``limit`` on each side is one tile. Choose ``limit`` and ``margin`` as
    multiples of the prompter's coarsest stride: then every view starts on its grid, and anchors and
    features lie where they lie when the image is seen whole.

    Args:
        shape: (height, width) of the image, px.
        limit: longest side of a view, px, more than twice ``margin``.
        margin: px around a core, as far as the image goes.
    """
    spans = [_spans(length, limit, margin) for length in shape]
    return [
        MacroTile(core=(x[0], y[0], x[1], y[1]), view=(x[2], y[2], x[3], y[3])) for y, x in product(spans[0], spans[1])
    ]


def _spans(length: int, limit: int, margin: int) -> list[tuple[int, int, int, int]]:
    """(core start, core stop, view start, view stop) along one side."""
    step = length if length <= limit else limit - 2 * margin
    spans = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        # A last core that is only a sliver is seen with twice the margin before it, for want of one behind it.
        before = margin if stop - start >= margin else 2 * margin
        spans.append((start, stop, max(start - before, 0), min(start + step + margin, length)))
    return spans
