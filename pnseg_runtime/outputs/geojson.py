"""Outlines as GeoJSON that QuPath (0.4 and later) imports as one detection a nucleus."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.nuclei import NucleusClass
from pnseg_runtime.outputs.origin import Origin
from pnseg_runtime.outputs.prediction import Prediction

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "pnseg.nucleus")

#: What stands before and after the features of a collection.
HEAD, TAIL = b'{"type": "FeatureCollection", "features": [', b"\n]}\n"

Polygons = Sequence[Sequence[NDArray[np.floating]]]


def write_geojson(prediction: Prediction, stream: BinaryIO) -> None:
    """Write a FeatureCollection, one line and one feature a nucleus, in label order.

    Coordinates are full-resolution pixels along pixel edges, the origin at the top left corner of
    the image.
    """
    write_collection((feature_of(prediction, index) for index in range(len(prediction.nuclei))), stream)


def geojson_origin(path: Path, content_hash: str) -> Origin:
    """Which image a collection is of, by the id of its first nucleus; without nuclei it may be any."""
    with path.open("rb") as stream:
        if stream.read(len(HEAD)) != HEAD:
            return Origin.UNKNOWN
        beginning = stream.read(1 << 10)
    if beginning == TAIL:
        return Origin.SOME
    start = b'\n{"type": "Feature", "id": "'
    if not beginning.startswith(start):
        return Origin.UNKNOWN
    first = _id_of(_identity(content_hash, 0)).encode()
    return Origin.SAME if beginning.removeprefix(start).startswith(first) else Origin.OTHER


def write_collection(features: Iterable[dict[str, Any]], stream: BinaryIO) -> None:
    """Write features as they come: each is forgotten before the next, so a file larger than memory is no matter."""
    stream.write(HEAD)
    for index, each in enumerate(features):
        stream.write(line_of(each, first=index == 0))
    stream.write(TAIL)


def line_of(feature: dict[str, Any], *, first: bool) -> bytes:
    """A feature as the line that goes between :data:`HEAD` and :data:`TAIL`."""
    text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
    return ("\n" if first else ",\n").encode() + text.encode()


def feature_of(prediction: Prediction, index: int) -> dict[str, Any]:
    """The GeoJSON feature of one nucleus of an image."""
    nuclei = prediction.nuclei
    return feature(
        identity=_identity(prediction.content_hash, index),
        kind=nuclei.class_table[int(nuclei.classes[index])],
        polygons=prediction.outlines[index],
        measurements=measurements_of(prediction, index),
    )


def feature(identity: str, kind: NucleusClass, polygons: Polygons, measurements: Mapping[str, float]) -> dict[str, Any]:
    """A feature that QuPath takes for a detection.

    Its id is a UUID of ``identity``, so that a second run over the same pixels gives the same one.
    """
    return {
        "type": "Feature",
        "id": _id_of(identity),
        "geometry": geometry_of(polygons),
        "properties": {
            "objectType": "detection",
            "classification": {"name": kind.name, "color": list(kind.color)},
            "measurements": {name: _short(value) for name, value in measurements.items() if math.isfinite(value)},
        },
    }


def _identity(content_hash: str, index: int) -> str:
    return f"{content_hash}/{index + 1}"


def _id_of(identity: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, identity))


def geometry_of(polygons: Polygons) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon if the nucleus has several parts; holes follow their shell."""
    coordinates = [[_positions(ring) for ring in rings] for rings in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def measurements_of(prediction: Prediction, index: int) -> dict[str, float]:
    """Name with unit → value of one nucleus of an image."""
    nuclei, measured = prediction.nuclei, prediction.measurements
    return named_measurements(
        label=index + 1,
        area=float(measured.area[index]),
        perimeter=float(measured.perimeter[index]),
        eccentricity=float(measured.eccentricity[index]),
        score=float(nuclei.scores[index]),
        iou=float(nuclei.ious[index]),
        mpp=nuclei.mpp,
    )


def named_measurements(
    *, label: int, area: float, perimeter: float, eccentricity: float, score: float, iou: float, mpp: float | None
) -> dict[str, float]:
    """Values under the names that QuPath shows; area in px², perimeter in px, in µm too where ``mpp`` is known."""
    values = {
        "Label": label,
        "Area px²": area,
        "Perimeter px": perimeter,
        "Eccentricity": eccentricity,
        "Score": score,
        "Predicted IoU": iou,
    }
    return values if mpp is None else values | {"Area µm²": area * mpp**2, "Perimeter µm": perimeter * mpp}


def _positions(ring: NDArray[np.floating]) -> list[list[float]]:
    return [[_short(x), _short(y)] for x, y in ring.tolist()]


def _short(value: float) -> float:
    """Six significant decimals are more than is measured; whole numbers are written as such."""
    return int(value) if value == int(value) else round(value, 6)
