"""Outlines of masks along pixel edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.atlas import Atlas
from pnseg_runtime.nuclei import Mask

Ring = NDArray[np.float32]
Polygon = list[Ring]

# The sides of a pixel, clockwise on the screen from the top: (x, y) where each starts, and of the pixel across.
_STARTS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
_ACROSS = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])
#: Pixels of masks' boxes that are traced at once: what is noted of them takes some 60 bytes each.
AT_ONCE = 1 << 19


def outline(mask: Mask, offset: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """The polygons whose inside is exactly a mask's pixels, see :func:`outlines`.

    Args:
        mask: (h, w) bool.
        offset: (x, y) of the mask's first pixel in the image, px.
    """
    return outlines([mask], np.array([offset]))[0]


def outlines(masks: Sequence[Mask], offsets: NDArray[np.integer]) -> list[list[Polygon]]:
    """For every mask, the polygons whose inside is exactly its pixels.

    Coordinates are those of pixel edges, as QuPath has them: pixel (0, 0) covers [0, 1] × [0, 1].
    Pixels that only share a corner belong to different polygons, so no ring crosses or touches
    itself.

    Many masks are traced at once: the sides of pixels at which a mask ends are linked, each to the one
    that follows it, and put in order by doubling the links.

    Args:
        masks: N masks, (h, w) bool.
        offsets: (N, 2) int, (x, y) of each mask's first pixel in the image, px.

    Returns:
        For each mask one polygon for every 4-connected part, each a list of closed rings (the first
        vertex is repeated at the end) of shape (M, 2) float32: the outer one, then its holes. As GeoJSON
        wants it (RFC 7946), the shoelace area Σ(x₁y₂ − x₂y₁)/2 is positive for outer rings and
        negative for holes.
    """
    offsets = np.asarray(offsets, np.int64).reshape(-1, 2)
    group = np.cumsum([mask.size for mask in masks], dtype=np.int64) // AT_ONCE
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(masks)]
    return [polygons for first, end in pairwise(bounds) for polygons in _traced(masks[first:end], offsets[first:end])]


def _traced(masks: Sequence[Mask], offsets: NDArray[np.int64]) -> list[list[Polygon]]:
    found: list[list[Polygon]] = [[] for _ in masks]
    atlas = Atlas.of(masks)
    rings = _rings(atlas)
    shift = (offsets - atlas.origins)[rings.mask]
    closed = _closed(rings.vertices, rings.starts)
    placed = (closed + np.repeat(shift, np.diff(rings.starts) + 1, axis=0)).astype(np.float32)
    bounds = (rings.starts[1:-1] + np.arange(1, len(rings.mask))).tolist()
    parts: dict[int, Polygon] = {}
    for ring, mask, part in zip(np.split(placed, bounds), rings.mask.tolist(), rings.part.tolist(), strict=False):
        if part not in parts:  # its outer ring comes first
            parts[part] = []
            found[mask].append(parts[part])
        parts[part].append(ring)
    return found


@dataclass(frozen=True)
class _Rings:
    """R rings: outer ones before holes, otherwise as their parts follow each other.

    Attributes:
        vertices: (V, 2) int64, (x, y) of all rings' vertices, ring by ring.
        starts: (R + 1,) where each ring's begin and end.
        mask: (R,) the mask it belongs to.
        part: (R,) the 4-connected part it belongs to.
    """

    vertices: NDArray[np.int64]
    starts: NDArray[np.intp]
    mask: NDArray[np.intp]
    part: NDArray[np.int32]


def _rings(atlas: Atlas) -> _Rings:
    width = atlas.labels.shape[1]
    parts = np.asarray(cv2.connectedComponents(atlas.foreground, connectivity=4)[1], np.int32).ravel()
    pixels, sides, following = _sides(parts, width)
    ring, place = _order(following)
    # Sides that go on straight are not where a vertex is.
    turns = np.empty(len(sides), np.bool_)
    turns[following] = sides[following] != sides
    order = np.lexsort((place, ring))
    order = order[turns[order]]
    vertices = np.stack([pixels % width, pixels // width], axis=1)[order] + _STARTS[sides[order]]
    first = np.flatnonzero(np.diff(ring[order], prepend=-1))
    starts = np.append(first, len(order))
    owner = pixels[order][first]
    sequence = np.lexsort((parts[owner], _areas(vertices, starts) < 0))
    lengths = np.diff(starts)[sequence]
    moved = np.concatenate([[0], np.cumsum(lengths)])
    index = np.repeat(first[sequence] - moved[:-1], lengths) + np.arange(len(vertices))
    owner = owner[sequence]
    return _Rings(vertices[index], moved, atlas.labels.ravel()[owner].astype(np.intp) - 1, parts[owner])


def _sides(parts: NDArray[np.int32], width: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Sides of pixels where their part ends: pixel, which side, and the index of the side that follows.

    Args:
        parts: (H · W,) number of the 4-connected part of each pixel, 0 outside.
        width: W.
    """
    across = _ACROSS[:, 0] + _ACROSS[:, 1] * width  # from a pixel to the one beyond each side
    filled = np.flatnonzero(parts)
    sides, which = np.nonzero(parts[filled[None, :] + across[:, None]] == 0)
    pixels = filled[which]
    number = np.full((4, len(parts)), -1, np.intp)
    number[sides, pixels] = np.arange(len(sides))
    # At the end of a side lie the pixel beyond the next side and the one diagonally across. With the same
    # part there, the border goes around that corner: two pixels of a part that touch at a corner only
    # so keep what they enclose apart. Otherwise it goes straight on, or around the pixel's own corner.
    turn, back = (sides + 1) % 4, (sides - 1) % 4
    beyond = pixels + across[turn]
    corner = beyond + across[sides]
    straight = np.where(parts[beyond] > 0, number[sides, beyond], number[turn, pixels])
    return pixels, sides, np.where(parts[corner] == parts[pixels], number[back, corner], straight)


def _order(following: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For links that form rings: the ring of each, named by its smallest member, and the place in it."""
    everyone = np.arange(len(following))
    ring, step = everyone, following
    while True:
        smaller = np.minimum(ring, ring[step])
        if np.array_equal(smaller, ring):
            break
        ring, step = smaller, step[step]
    # Cut in front of the smallest: the distance from each to the last, by twice as long steps each time.
    last = ring[following] == following
    step = np.where(last, everyone, following)
    distance = (~last).astype(np.intp)
    while True:
        further = distance + distance[step]
        if np.array_equal(further, distance):
            break
        distance, step = further, step[step]
    return ring, -distance


def _closed(vertices: NDArray[np.int64], starts: NDArray[np.intp]) -> NDArray[np.int64]:
    """Every ring with its first vertex at the end again."""
    return np.insert(vertices, starts[1:], vertices[starts[:-1]], axis=0)


def _areas(vertices: NDArray[np.int64], starts: NDArray[np.intp]) -> NDArray[np.int64]:
    """Twice the signed area of each ring."""
    if not len(vertices):
        return np.zeros(0, np.int64)
    after = np.arange(1, len(vertices) + 1)
    after[starts[1:] - 1] = starts[:-1]
    x, y = vertices.T
    return np.add.reduceat(x * y[after] - x[after] * y, starts[:-1])
