"""Which part of a slide is looked at: tissue, and what the user names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.slide.readers.base import Box, SlideReader

Ring = NDArray[np.float64]
Polygon = tuple[Ring, ...]

_LINES = 2048  # along which the area of regions is measured, of all polygons together


@dataclass(frozen=True)
class Roi:
    """Polygons in px of level 0 (edges at integers), each an outer ring and its holes."""

    polygons: tuple[Polygon, ...]

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) bool: which points (N, 2), given as edge coordinates, lie inside."""
        inside = np.zeros(len(points), np.bool_)
        for rings in self.polygons:
            # Of the rings of one polygon an odd number is around a point inside.
            crossings = np.stack([_odd(points, ring) for ring in rings]).sum(axis=0)
            inside[crossings % 2 == 1] = True
        return inside

    def raster(self, shape: tuple[int, int], scale: float) -> NDArray[np.bool_]:
        """(h, w) bool: every cell of ``scale`` px of level 0 that a polygon touches."""
        canvas = np.zeros(shape, np.uint8)
        for rings in self.polygons:
            cells = [np.floor(ring / scale).astype(np.int32) for ring in rings]
            own = np.zeros(shape, np.uint8)
            cv2.fillPoly(own, cells, 1)
            cv2.polylines(own, cells, isClosed=True, color=1, thickness=1)
            canvas |= np.asarray(cv2.dilate(own, np.ones((3, 3), np.uint8)), np.uint8)
        return canvas.astype(np.bool_)

    def lines(self) -> NDArray[np.float64]:
        """Ascending y, px of level 0, close enough that the widths of each polygon between two of them are alike."""
        each = max(_LINES // len(self.polygons), 4)
        heights = [np.concatenate([ring[:, 1] for ring in rings]) for rings in self.polygons]
        return np.unique(np.concatenate([np.linspace(ys.min(), ys.max(), each + 1) for ys in heights]))

    def spans(self, ys: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """For each y the (N, 2) spans of x inside polygons; those of different polygons may overlap."""
        rings = [(index, ring) for index, rings in enumerate(self.polygons) for ring in rings]
        owners = np.concatenate([np.full(len(ring) - 1, index) for index, ring in rings])
        ax, ay, bx, by = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for _, ring in rings]).T
        for y in ys:
            crossed = np.flatnonzero((ay > y) != (by > y))
            a, b = ay[crossed], by[crossed]
            x = ax[crossed] + (bx[crossed] - ax[crossed]) * (y - a) / (b - a)
            # A closed polygon is crossed an even number of times: into it and out of it.
            yield x[np.lexsort((x, owners[crossed]))].reshape(-1, 2)


@dataclass(frozen=True)
class Area:
    """Where nuclei are looked for.

    Attributes:
        tissue: (h, w) bool, or None for everywhere.
        tissue_scale: px of level 0 a pixel of ``tissue``.
        roi: what the user has named, or None.
    """

    tissue: NDArray[np.bool_] | None = None
    tissue_scale: float = 1.0
    roi: Roi | None = None

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) bool: which points (N, 2), edge coordinates in px of level 0, are looked at."""
        inside = np.ones(len(points), np.bool_)
        if self.tissue is not None:
            cells = np.floor(points / self.tissue_scale).astype(np.intp)
            height, width = self.tissue.shape
            inside &= self.tissue[np.clip(cells[:, 1], 0, height - 1), np.clip(cells[:, 0], 0, width - 1)]
        if self.roi is not None:
            inside &= self.roi.holds(points)
        return inside

    def bounds_within(self, box: Box) -> Box | None:
        """The smallest box around what is looked at in a box, px of level 0; None if that is nothing."""
        spans = [box]
        if self.tissue is not None:
            spans += _bounds(self.tissue, self.tissue_scale, box)
        if self.roi is not None:
            spans += self._roi_bounds(box)
        if any(span is None for span in spans):
            return None
        x0, y0 = (max(span[axis] for span in spans) for axis in (0, 1))
        x1, y1 = (min(span[axis] for span in spans) for axis in (2, 3))
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def _roi_bounds(self, box: Box) -> list[Any]:
        assert self.roi is not None
        x0, y0, x1, y1 = box
        scale = max((x1 - x0) / 256, (y1 - y0) / 256, 1.0)
        shape = (math.ceil((y1 - y0) / scale), math.ceil((x1 - x0) / scale))
        moved = Roi(tuple(tuple(ring - (x0, y0) for ring in rings) for rings in self.roi.polygons))
        local = _bounds(moved.raster(shape, scale), scale, (0, 0, x1 - x0, y1 - y0))
        return [None if span is None else (span[0] + x0, span[1] + y0, span[2] + x0, span[3] + y0) for span in local]

    def area_px(self, shape: tuple[int, int]) -> float:
        """px² of level 0 that are looked at, of a slide of (height, width) ``shape``; a region is not counted in cells.

        Along lines through the polygons the lengths are exact, however small a polygon is beside a cell of tissue.
        """
        cells, scale = (
            (np.ones((1, 1), np.bool_), max(shape)) if self.tissue is None else (self.tissue, self.tissue_scale)
        )
        rows, columns = (_edges(count, scale, side) for count, side in zip(cells.shape, shape, strict=True))
        # Length of tissue from the left end of each row of cells to each edge between cells.
        tissue = np.cumsum(cells * np.diff(columns), axis=1)
        tissue = np.pad(tissue, ((0, 0), (1, 0)))
        if self.roi is None:
            return float(np.diff(rows) @ tissue[:, -1])
        edges = np.clip(self.roi.lines(), 0, shape[0])
        edges = np.union1d(edges, rows[(rows > edges[0]) & (rows < edges[-1])])
        middles, heights = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        area = 0.0
        for y, height, spans in zip(middles, heights, self.roi.spans(middles), strict=True):
            row = tissue[min(int(y / scale), len(tissue) - 1)]
            area += height * _length(np.interp(spans, columns, row))
        return float(area)


def _edges(count: int, scale: float, side: int) -> NDArray[np.float64]:
    """(count + 1,) edges of cells, px of level 0; the last cell stands for the sliver behind it too."""
    return np.append(np.arange(count) * scale, side)


def _length(spans: NDArray[np.float64]) -> float:
    """Of the union of (N, 2) spans from 0 on."""
    if not len(spans):
        return 0.0
    starts, stops = spans[np.argsort(spans[:, 0])].T
    reached = np.append(0.0, np.maximum.accumulate(stops)[:-1])
    return float(np.maximum(stops - np.maximum(starts, reached), 0).sum())


def _bounds(cells: NDArray[np.bool_], scale: float, box: Box) -> list[Any]:
    """[box around the true cells inside a box], or [None]."""
    height, width = cells.shape
    x0, y0 = (min(math.floor(value / scale), side - 1) for value, side in zip(box[:2], (width, height), strict=True))
    x1, y1 = (min(math.ceil(value / scale), side) for value, side in zip(box[2:], (width, height), strict=True))
    part = cells[y0:y1, x0:x1]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not rows.size:
        return [None]
    # The last cell stands for the sliver behind it too.
    right = box[2] if x0 + columns[-1] + 1 >= width else math.ceil((x0 + int(columns[-1]) + 1) * scale)
    bottom = box[3] if y0 + rows[-1] + 1 >= height else math.ceil((y0 + int(rows[-1]) + 1) * scale)
    return [(math.floor((x0 + int(columns[0])) * scale), math.floor((y0 + int(rows[0])) * scale), right, bottom)]


def _edges_at(ring: Ring, ys: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4) ends ax, ay, bx, by of the edges of a closed ring that rays at heights between those given may cross."""
    edges = np.hstack([ring[:-1], ring[1:]])
    if not len(ys):
        return edges[:0]
    lower, upper = np.minimum(edges[:, 1], edges[:, 3]), np.maximum(edges[:, 1], edges[:, 3])
    return edges[(lower < upper) & (lower <= ys.max()) & (upper > ys.min())]


def _odd(points: NDArray[np.float64], ring: Ring) -> NDArray[np.bool_]:
    """Whether a ray from each point crosses a closed ring an odd number of times."""
    inside = np.zeros(len(points), np.bool_)
    x, y = points.T
    for ax, ay, bx, by in _edges_at(ring, y):
        crosses = (ay > y) != (by > y)
        inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def roi_on(reader: SlideReader, text: str) -> Roi:
    """:func:`read_roi`, of a region that a slide has a part in.

    Raises:
        ImageError: it is no region, or lies beside the slide.
    """
    roi, (height, width) = read_roi(text), reader.shape
    if not Area(roi=roi).area_px(reader.shape):
        raise ImageError(
            f"{reader.path}: no part of it lies in the region of interest {text}; the slide is {width}×{height} px, "
            "of which a region is counted from the top left corner."
        )
    return roi


def read_roi(text: str) -> Roi:
    """A region of interest: ``X,Y,WIDTH,HEIGHT`` in px of level 0, or a GeoJSON file of polygons.

    Raises:
        ImageError: neither, or no polygon in the file.
    """
    parts = text.split(",")
    if len(parts) == 4:
        try:
            x, y, width, height = (float(part) for part in parts)
        except ValueError:
            pass
        else:
            if not (width > 0 and height > 0 and math.isfinite(x + y + width + height)):
                raise ImageError(f"{text}: a rectangle needs finite numbers, the last two over 0 (X,Y,WIDTH,HEIGHT).")
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
            return Roi(((np.array(corners),),))
    path = Path(text)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(
            f"{text}: no region of interest; give X,Y,WIDTH,HEIGHT in px of the full resolution or a GeoJSON file."
        ) from error
    try:
        polygons = tuple(_polygons(document))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ImageError(f"{path}: not the GeoJSON of polygons ({error}); export it again.") from error
    if not polygons:
        raise ImageError(f"{path}: holds no polygon; draw an annotation with an area and export it again.")
    return Roi(polygons)


def _polygons(node: Any) -> Iterator[Polygon]:
    """Every polygon of a GeoJSON object, a list of features among them as QuPath writes it."""
    if isinstance(node, list):
        for each in node:
            yield from _polygons(each)
    elif not isinstance(node, dict):
        raise ValueError(f"{type(node).__name__} where an object should be")
    elif node.get("type") == "FeatureCollection":
        yield from _polygons(node["features"])
    elif node.get("type") == "Feature":
        yield from _polygons(node["geometry"] or [])
    elif node.get("type") == "GeometryCollection":
        yield from _polygons(node["geometries"])
    elif node.get("type") == "Polygon":
        yield _rings(node["coordinates"])
    elif node.get("type") == "MultiPolygon":
        for rings in node["coordinates"]:
            yield _rings(rings)


def _rings(rings: Any) -> Polygon:
    checked = []
    for ring in rings:
        vertices = np.array(ring, np.float64)[:, :2]
        if len(vertices) < 3 or not np.isfinite(vertices).all():
            raise ValueError("a ring with fewer than three vertices or without finite coordinates")
        checked.append(vertices if (vertices[0] == vertices[-1]).all() else np.concatenate([vertices, vertices[:1]]))
    return tuple(checked)
