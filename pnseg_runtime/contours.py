"""Outlines of masks along pixel edges."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.nuclei import Mask

Ring = NDArray[np.float32]


def outline(mask: Mask, offset: tuple[int, int] = (0, 0)) -> list[list[Ring]]:
    """The polygons whose inside is exactly a mask's pixels.

    Coordinates are those of pixel edges, as QuPath has them: pixel (0, 0) covers [0, 1] × [0, 1].
    Pixels that only share a corner belong to different polygons, so no ring crosses or touches
    itself.

    Args:
        mask: (h, w) bool.
        offset: (x, y) of the mask's first pixel in the image, px.

    Returns:
        One polygon for every 4-connected part, each a list of closed rings (the first vertex is
        repeated at the end) of shape (M, 2) float32: the outer one, then its holes. As GeoJSON wants
        it (RFC 7946), the shoelace area Σ(x₁y₂ − x₂y₁)/2 is positive for outer rings and negative
        for holes.
    """
    if not mask.any():
        return []
    parts, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return [_polygon(labels == part, offset) for part in range(1, parts)]


def _polygon(part: Mask, offset: tuple[int, int]) -> list[Ring]:
    """Rings of one 4-connected part."""
    contours, hierarchy = cv2.findContours(_grid(part), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # Column 3 of the hierarchy is the contour around this one; the outer ring has none.
    outer_first = np.argsort(hierarchy[0, :, 3] >= 0, kind="stable")
    return [
        _ring(contours[index][:, 0] + np.array(offset) * 2, clockwise=bool(hierarchy[0, index, 3] >= 0))
        for index in outer_first
    ]


def _grid(part: Mask) -> NDArray[np.uint8]:
    """(h, w) → (2h + 1, 2w + 1): odd positions are pixel centres, even ones the edges between them.

    A pixel fills its centre and all its edges and corners, so a border on this grid runs along
    pixel edges.
    """
    height, width = part.shape
    grid = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    grid[1::2, 1::2] = part
    return np.asarray(cv2.dilate(grid, np.ones((3, 3), np.uint8)), np.uint8)


def _ring(nodes: NDArray[np.integer], clockwise: bool) -> Ring:
    """A border on the grid → a closed ring in px.

    Border following steps diagonally across every corner that points into the mask; the corner goes
    back in. Corners have even coordinates, and only they are vertices.
    """
    following = np.roll(nodes, -1, axis=0)
    diagonal = (nodes != following).all(axis=1)
    corners = np.where(nodes % 2 == 0, nodes, following)
    path = np.stack([nodes, np.where(diagonal[:, None], corners, nodes)], axis=1).reshape(-1, 2)
    vertices = path[(path % 2 == 0).all(axis=1)]
    vertices = vertices[(vertices != np.roll(vertices, 1, axis=0)).any(axis=1)]
    if (_shoelace(vertices) < 0) != clockwise:
        vertices = vertices[::-1]
    return (np.concatenate([vertices, vertices[:1]]) / 2).astype(np.float32)


def _shoelace(vertices: NDArray[np.integer]) -> float:
    """Signed area of a ring that is not closed."""
    x, y = vertices.T.astype(np.float64)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
