"""Outlines as GeoJSON that QuPath (0.4 and later) imports as one detection a nucleus."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.outputs.prediction import Prediction

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "pnseg.nucleus")

Rings = list[list[NDArray[np.float32]]]


def write_geojson(prediction: Prediction, stream: BinaryIO) -> None:
    """Write a FeatureCollection, one line and one feature a nucleus, in label order.

    Coordinates are full-resolution pixels along pixel edges, the origin at the top left corner of
    the image. A feature is made, written and forgotten before the next, so a file larger than
    memory is no matter.
    """
    stream.write(b'{"type": "FeatureCollection", "features": [')
    for index in range(len(prediction.nuclei)):
        feature = json.dumps(feature_of(prediction, index), ensure_ascii=False, allow_nan=False)
        stream.write((",\n" if index else "\n").encode() + feature.encode())
    stream.write(b"\n]}\n")


def feature_of(prediction: Prediction, index: int) -> dict[str, Any]:
    """The GeoJSON feature of one nucleus.

    Its id is a UUID of the image's content and the label, so that a second run gives the same one.
    """
    nuclei = prediction.nuclei
    kind = nuclei.class_table[int(nuclei.classes[index])]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{prediction.content_hash}/{index + 1}")),
        "geometry": geometry_of(prediction.outlines[index]),
        "properties": {
            "objectType": "detection",
            "classification": {"name": kind.name, "color": list(kind.color)},
            "measurements": measurements_of(prediction, index),
        },
    }


def geometry_of(polygons: Rings) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon if the nucleus has several parts; holes follow their shell."""
    coordinates = [[_positions(ring) for ring in rings] for rings in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def measurements_of(prediction: Prediction, index: int) -> dict[str, float]:
    """Name with unit → value; one that is not finite is left out, as JSON has no NaN."""
    nuclei, measured, mpp = prediction.nuclei, prediction.measurements, prediction.nuclei.mpp
    area, perimeter = float(measured.area[index]), float(measured.perimeter[index])
    values: dict[str, float] = {
        "Label": index + 1,
        "Area px²": area,
        "Perimeter px": perimeter,
        "Eccentricity": float(measured.eccentricity[index]),
        "Score": float(nuclei.scores[index]),
        "Predicted IoU": float(nuclei.ious[index]),
    }
    if mpp is not None:
        values |= {"Area µm²": area * mpp**2, "Perimeter µm": perimeter * mpp}
    return {name: _short(value) for name, value in values.items() if math.isfinite(value)}


def _positions(ring: NDArray[np.float32]) -> list[list[float]]:
    return [[_short(x), _short(y)] for x, y in ring.tolist()]


def _short(value: float) -> float:
    """Six significant decimals are more than is measured; whole numbers are written as such."""
    return int(value) if value == int(value) else round(value, 6)
