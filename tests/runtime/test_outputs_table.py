from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from pnseg_runtime.outputs import Prediction
from pnseg_runtime.outputs.table import table_of, write_csv, write_parquet
from tests.runtime.made import nuclei_of, square_ring_and_pair

WHITE = np.full((30, 40, 3), 255, np.uint8)
NAMES = [
    "id",
    "class",
    "score",
    "predicted_iou",
    "centroid_x",
    "centroid_y",
    "bbox_x0",
    "bbox_y0",
    "bbox_x1",
    "bbox_y1",
    "area_px",
    "perimeter_px",
    "eccentricity",
]


def test_a_row_holds_the_numbers_of_its_nucleus() -> None:
    rows = table_of(Prediction(WHITE, square_ring_and_pair())).to_pylist()
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [row["class"] for row in rows] == ["neoplastic", "inflammatory", "neoplastic"]
    assert [row["area_px"] for row in rows] == [24, 24, 8]
    first = rows[0]
    assert (first["centroid_x"], first["centroid_y"]) == (5.5, 3.5)
    assert [first[f"bbox_{side}"] for side in ("x0", "y0", "x1", "y1")] == [3, 2, 9, 6]
    assert first["score"] == pytest.approx(0.9)
    assert first["predicted_iou"] == pytest.approx(0.95)


def test_columns_have_their_documented_names_and_units() -> None:
    schema = table_of(Prediction(WHITE, square_ring_and_pair())).schema
    assert schema.names == NAMES
    assert schema.field("area_px").metadata == {b"unit": "px²".encode()}
    schema = table_of(Prediction(WHITE, square_ring_and_pair(mpp=0.5))).schema
    units = {field.name: field.metadata[b"unit"].decode() for field in schema}
    of_px = ("centroid_x", "centroid_y", "bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1", "perimeter_px")
    assert units == dict.fromkeys(of_px, "px") | {
        "id": "label",
        "class": "",
        "score": "probability",
        "predicted_iou": "IoU",
        "area_px": "px²",
        "eccentricity": "",
        "area_um2": "µm²",
        "perimeter_um": "µm",
    }
    assert not any(field.nullable for field in schema)


def test_microns_appear_only_with_a_known_pixel_size() -> None:
    table = table_of(Prediction(WHITE, square_ring_and_pair(mpp=0.5)))
    assert table.column_names == [*NAMES, "area_um2", "perimeter_um"]
    assert table["area_um2"].to_pylist() == [6, 6, 2]
    half = np.array(table["perimeter_px"]) / 2
    np.testing.assert_allclose(table["perimeter_um"], half, rtol=1e-6)


def test_csv_and_parquet_hold_the_same_rows() -> None:
    prediction = Prediction(WHITE, square_ring_and_pair(mpp=0.25))
    text, binary = io.BytesIO(), io.BytesIO()
    write_csv(prediction, text)
    write_parquet(prediction, binary)
    parquet = pa.parquet.read_table(pa.BufferReader(binary.getvalue()))
    csv = pa.csv.read_csv(pa.BufferReader(text.getvalue()))
    assert parquet.equals(table_of(prediction))
    assert csv.column_names == parquet.column_names
    for name in csv.column_names:
        expected = parquet[name].to_pylist()
        assert csv[name].to_pylist() == (expected if name == "class" else pytest.approx(expected, rel=1e-6))


def test_no_nuclei_give_a_table_with_columns_and_no_rows() -> None:
    empty = Prediction(WHITE, nuclei_of([], (30, 40)))
    text = io.BytesIO()
    write_csv(empty, text)
    assert table_of(empty).num_rows == 0
    assert text.getvalue().decode().strip().replace('"', "").split(",") == NAMES
