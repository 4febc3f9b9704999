"""Settled nuclei as rows: in px of level 0 for everyone, with the work px masks for the label image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pnseg_runtime.contours import outlines
from pnseg_runtime.measure import measure
from pnseg_runtime.nuclei import Mask, NucleusClass
from pnseg_runtime.outputs import wkb
from pnseg_runtime.slide.core import pack_masks, unpack_mask
from pnseg_runtime.slide.resolution import Resolution
from pnseg_runtime.slide.settle import Settled

_DECIMALS = 3  # of a pixel: far more than is measured
_CERTAIN_DECIMALS = 4  # of scores and IoUs: last bits depend on the number of threads


def _field(name: str, kind: pa.DataType, unit: str = "", origin: str = "") -> pa.Field:
    metadata = {"unit": unit} | ({"origin": origin} if origin else {})
    return pa.field(name, kind, nullable=False, metadata=metadata)


#: Where places are counted from: of the one pixel centres lie at integers, of the other edges of pixels.
_CENTRE, _CORNER = "centre of the first pixel", "corner of the first pixel"

#: What the table of a slide holds, but for the number of the row.
PUBLIC = (
    _field("class", pa.string()),
    _field("score", pa.float32(), "probability"),
    _field("predicted_iou", pa.float32(), "IoU"),
    _field("centroid_x", pa.float64(), "px", _CENTRE),
    _field("centroid_y", pa.float64(), "px", _CENTRE),
    _field("bbox_x0", pa.float64(), "px", _CORNER),
    _field("bbox_y0", pa.float64(), "px", _CORNER),
    _field("bbox_x1", pa.float64(), "px", _CORNER),
    _field("bbox_y1", pa.float64(), "px", _CORNER),
    _field("area_px", pa.float64(), "px²"),
    _field("perimeter_px", pa.float32(), "px"),
    _field("eccentricity", pa.float32()),
    _field("area_um2", pa.float32(), "µm²"),
    _field("perimeter_um", pa.float32(), "µm"),
    _field("point_x", pa.float64(), "px", _CENTRE),
    _field("point_y", pa.float64(), "px", _CENTRE),
    _field("geometry", pa.binary(), "px", _CORNER),
)
_PRIVATE = (_field("work_box", pa.list_(pa.int32(), 4)), _field("bits", pa.binary()))
SCHEMA = pa.schema([*PUBLIC, *_PRIVATE])


def table_of(settled: Settled, resolution: Resolution, class_table: tuple[NucleusClass, ...]) -> pa.Table:
    """Measure and outline the nuclei of a core."""
    measured = measure(settled.masks, settled.boxes[:, :2])
    origin = np.array(settled.origin, np.int64)
    boxes = settled.boxes.astype(np.int64) + np.tile(origin, 2)
    full = np.round(resolution.full_edges(boxes), _DECIMALS)
    centroids = np.round(resolution.full_centres(measured.centroids.astype(np.float64) + origin), _DECIMALS)
    points = np.round(resolution.full_centres(settled.points.astype(np.float64) + origin), _DECIMALS)
    areas, scale, mpp = measured.area.astype(np.float64), resolution.scale, resolution.work_mpp
    names = np.array([kind.name for kind in class_table], dtype=object)
    columns: dict[str, Any] = {
        "class": names[settled.classes],
        "score": _rounded(settled.scores),
        "predicted_iou": _rounded(settled.ious),
        "centroid_x": centroids[:, 0],
        "centroid_y": centroids[:, 1],
        **{f"bbox_{name}": full[:, index] for index, name in enumerate(("x0", "y0", "x1", "y1"))},
        "area_px": np.round(areas * scale**2, _DECIMALS),
        "perimeter_px": measured.perimeter * np.float32(scale),
        "eccentricity": measured.eccentricity,
        "area_um2": areas * mpp**2,
        "perimeter_um": measured.perimeter * np.float32(mpp),
        "point_x": points[:, 0],
        "point_y": points[:, 1],
        "geometry": _geometries(settled.masks, boxes, resolution),
        "work_box": list(boxes.astype(np.int32)),
        "bits": pack_masks(settled.masks),
    }
    return pa.Table.from_arrays(
        [pa.array(columns[field.name], from_pandas=False).cast(field.type) for field in SCHEMA], schema=SCHEMA
    )


def _rounded(certain: NDArray[np.float32]) -> NDArray[np.float64]:
    return certain.astype(np.float64).round(_CERTAIN_DECIMALS)


def _geometries(masks: Sequence[Mask], boxes: NDArray[np.int64], resolution: Resolution) -> list[bytes]:
    # Outlines are float32, which far out on a slide has no halves any more: the place is added afterwards.
    traced = outlines(masks, np.zeros((len(masks), 2), np.int64)) if masks else []
    return [
        wkb.encode(
            [
                [np.round(resolution.full_edges(ring.astype(np.float64) + box[:2]), _DECIMALS) for ring in rings]
                for rings in polygons
            ]
        )
        for polygons, box in zip(traced, boxes, strict=True)
    ]


@dataclass(frozen=True)
class WorkMask:
    """A nucleus on the work px: its number, its box (x0, y0, x1, y1) and its mask."""

    label: int
    box: tuple[int, int, int, int]
    mask: Mask


def work_masks(table: pa.Table, first: int) -> Iterator[WorkMask]:
    """The masks of a core's table; its first row has the number ``first``."""
    boxes = table["work_box"].to_pylist()
    for index, (box, bits) in enumerate(zip(boxes, table["bits"].to_pylist(), strict=True)):
        x0, y0, x1, y1 = box
        yield WorkMask(first + index, (x0, y0, x1, y1), unpack_mask(bits, (y1 - y0, x1 - x0)))
