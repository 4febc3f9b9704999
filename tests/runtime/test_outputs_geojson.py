from __future__ import annotations

import io
import json
import uuid
from typing import Any

import numpy as np
import pytest

from pnseg_runtime.outputs import Prediction
from pnseg_runtime.outputs.geojson import write_geojson
from tests.runtime.made import dark_spots, nuclei_of, sample, square_ring_and_pair

WHITE = np.full((30, 40, 3), 255, np.uint8)


def written(prediction: Prediction) -> dict[str, Any]:
    stream = io.BytesIO()
    write_geojson(prediction, stream)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    document: dict[str, Any] = json.loads(stream.getvalue().decode("utf-8"), parse_constant=refuse)
    return document


def ring_area(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2)


def covered_area(geometry: dict[str, Any]) -> float:
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return sum(ring_area(shell) - sum(map(ring_area, holes)) for shell, *holes in polygons)


def test_every_nucleus_is_one_qupath_detection() -> None:
    document = written(Prediction(WHITE, square_ring_and_pair()))
    assert document["type"] == "FeatureCollection"
    assert len(document["features"]) == 3
    first = document["features"][0]
    assert first["type"] == "Feature"
    assert first["properties"]["objectType"] == "detection"
    assert first["properties"]["classification"] == {"name": "neoplastic", "color": [255, 0, 0]}


def test_a_rectangle_lies_on_its_pixel_edges_at_full_resolution() -> None:
    geometry = written(Prediction(WHITE, square_ring_and_pair()))["features"][0]["geometry"]
    assert geometry["type"] == "Polygon"
    (ring,) = geometry["coordinates"]
    assert ring[0] == ring[-1]
    assert np.min(ring, axis=0).tolist() == [3, 2]
    assert np.max(ring, axis=0).tolist() == [9, 6]


def test_a_hole_and_separate_parts_are_kept() -> None:
    _, ring, pair = written(Prediction(WHITE, square_ring_and_pair()))["features"]
    assert (ring["geometry"]["type"], len(ring["geometry"]["coordinates"])) == ("Polygon", 2)
    assert (pair["geometry"]["type"], len(pair["geometry"]["coordinates"])) == ("MultiPolygon", 2)


def test_outlines_on_a_real_image_cover_exactly_the_masks() -> None:
    image = sample()
    nuclei = dark_spots(image)
    features = written(Prediction(image, nuclei))["features"]
    assert len(features) == len(nuclei) > 5
    for feature, mask in zip(features, nuclei.masks, strict=True):
        assert covered_area(feature["geometry"]) == mask.sum() == feature["properties"]["measurements"]["Area px²"]


def test_measurements_have_units_and_microns_only_with_a_pixel_size() -> None:
    plain, scaled = (
        written(Prediction(WHITE, square_ring_and_pair(mpp)))["features"][0]["properties"]["measurements"]
        for mpp in (None, 0.5)
    )
    assert list(plain) == ["Label", "Area px²", "Perimeter px", "Eccentricity", "Score", "Predicted IoU"]
    assert list(scaled) == [*plain, "Area µm²", "Perimeter µm"]
    assert scaled["Area µm²"] == 6
    assert scaled["Perimeter µm"] == pytest.approx(plain["Perimeter px"] / 2, rel=1e-4)


def test_measurements_have_six_decimals() -> None:
    nuclei = square_ring_and_pair()
    nuclei.scores[0] = 0.123456789
    measurements = written(Prediction(WHITE, nuclei))["features"][0]["properties"]["measurements"]
    assert measurements["Score"] == 0.123457
    assert measurements["Predicted IoU"] == 0.95


def test_a_measurement_that_is_not_finite_is_left_out() -> None:
    nuclei = square_ring_and_pair()
    nuclei.scores[1] = np.nan
    features = written(Prediction(WHITE, nuclei))["features"]
    assert ["Score" in feature["properties"]["measurements"] for feature in features] == [True, False, True]


def test_ids_are_uuids_that_depend_on_the_image_and_nothing_else() -> None:
    ids = [feature["id"] for feature in written(Prediction(WHITE, square_ring_and_pair()))["features"]]
    again = [feature["id"] for feature in written(Prediction(WHITE.copy(), square_ring_and_pair()))["features"]]
    other = [feature["id"] for feature in written(Prediction(WHITE - 1, square_ring_and_pair()))["features"]]
    assert [str(uuid.UUID(value)) for value in ids] == ids == again
    assert len({*ids, *other}) == 6


def test_no_nuclei_give_an_empty_collection() -> None:
    assert written(Prediction(WHITE, nuclei_of([], (30, 40)))) == {"type": "FeatureCollection", "features": []}
