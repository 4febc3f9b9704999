"""What is written is what QuPath, GeoParquet readers and OME-Zarr tools take."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pnseg_runtime.outputs import wkb
from pnseg_runtime.slide import SlideOptions, SlideResult
from tests.runtime.slide.local import run_local

zarr = pytest.importorskip("zarr", minversion="3")
KINDS = ("geojson", "geojson.gz", "parquet", "labels", "pictures")


@pytest.fixture(scope="module", params=[0.25, 0.4])
def result(request: pytest.FixtureRequest, mosaic: Path, bundle: Path, tmp_path_factory: Any) -> SlideResult:
    """Of a slide as fine as the model, and of a coarser one, which is enlarged for it."""
    out = tmp_path_factory.mktemp("outputs")
    return run_local(mosaic, out, bundle, KINDS, SlideOptions(mpp=request.param, tissue=False, core=384, margin=192))


def features_of(result: SlideResult) -> list[dict[str, Any]]:
    document = json.loads(result.outputs[".geojson"].read_text(encoding="utf-8"))
    assert list(document) == ["type", "features"]
    assert document["type"] == "FeatureCollection"
    return document["features"]


def area_of(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def problems_for_qupath(feature: dict[str, Any], width: int, height: int) -> list[str]:
    """What of QuPath's rules for imported objects a feature breaks."""
    found = []
    if feature.get("type") != "Feature":
        found.append("no feature")
    try:
        uuid.UUID(feature["id"])
    except (KeyError, ValueError):
        found.append("id is no UUID")
    properties = feature["properties"]
    if properties.get("objectType") != "detection":
        found.append("no detection")
    kind = properties.get("classification", {})
    if not isinstance(kind.get("name"), str) or len(kind.get("color", [])) != 3:
        found.append("classification without name or colour")
    for name, value in properties.get("measurements", {}).items():
        if not isinstance(name, str) or isinstance(value, bool) or not math.isfinite(value):
            found.append(f"measurement {name} is no number")
    geometry = feature["geometry"]
    polygons = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}[geometry["type"]]
    for rings in polygons:
        for index, ring in enumerate(rings):
            if len(ring) < 4 or ring[0] != ring[-1]:
                found.append("a ring that is not closed")
            if (area_of(ring) > 0) != (index == 0):
                found.append("a ring that runs the wrong way")
            if not all(0 <= x <= width and 0 <= y <= height for x, y in ring):
                found.append("a coordinate outside the slide")
    return found


def test_every_feature_keeps_qupaths_rules(result: SlideResult) -> None:
    features = features_of(result)
    assert len(features) == result.nuclei > 50
    assert [problems_for_qupath(feature, 1024, 768) for feature in features] == [[]] * len(features)
    assert len({feature["id"] for feature in features}) == len(features)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda f: f.update(id="7"),
        lambda f: f["properties"].update(objectType="cell"),
        lambda f: f["properties"]["measurements"].update(Area=math.nan),
        lambda f: f["geometry"]["coordinates"][0].pop(),
        lambda f: f["geometry"]["coordinates"][0].reverse(),
        lambda f: f["geometry"]["coordinates"][0].insert(1, [-3, 5]),
    ],
)
def test_the_check_of_qupaths_rules_finds_what_is_wrong(result: SlideResult, break_it: Any) -> None:
    feature = next(each for each in features_of(result) if each["geometry"]["type"] == "Polygon")
    break_it(feature)
    assert problems_for_qupath(feature, 1024, 768)


def test_geometries_are_valid_and_do_not_overlap(result: SlideResult) -> None:
    shapely = pytest.importorskip("shapely")
    shapes = shapely.from_wkb(pq.read_table(result.outputs[".parquet"])["geometry"].to_pylist())
    assert shapely.is_valid(shapes).all()
    tree = shapely.STRtree(shapes)
    first, second = tree.query(shapes, predicate="overlaps")
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    assert (shared < 1e-6).all()


def test_the_compressed_geojson_is_the_plain_one(result: SlideResult) -> None:
    packed = result.outputs[".geojson.gz"].read_bytes()
    assert gzip.decompress(packed) == result.outputs[".geojson"].read_bytes()
    assert packed[4:8] == b"\0\0\0\0"  # no time in it


def test_table_and_geojson_tell_the_same(result: SlideResult) -> None:
    table = pq.read_table(result.outputs[".parquet"]).to_pylist()
    for row, feature in zip(table, features_of(result), strict=True):
        values = feature["properties"]["measurements"]
        assert (row["id"], row["class"]) == (values["Label"], feature["properties"]["classification"]["name"])
        assert row["area_px"] == pytest.approx(values["Area px²"], abs=1e-3)
        assert row["area_um2"] == pytest.approx(values["Area µm²"], rel=1e-4)
        polygons = wkb.decode(row["geometry"])
        assert sum(area_of(ring.tolist()) for rings in polygons for ring in rings) == pytest.approx(
            row["area_px"], abs=0.5
        )
        outer = np.concatenate([rings[0] for rings in polygons])
        box = [row[f"bbox_{name}"] for name in ("x0", "y0", "x1", "y1")]
        np.testing.assert_allclose([*outer.min(axis=0), *outer.max(axis=0)], box, atol=1e-3)


def test_the_table_is_geoparquet(result: SlideResult) -> None:
    file = pq.ParquetFile(result.outputs[".parquet"])
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert file.num_row_groups > 1
    assert file.schema_arrow.field("area_px").metadata == {b"unit": "px²".encode()}
    ids = file.read(["id"])["id"].to_numpy()
    np.testing.assert_array_equal(ids, np.arange(1, result.nuclei + 1))


def test_places_are_counted_from_the_origin_that_their_columns_name(result: SlideResult) -> None:
    table = pq.read_table(result.outputs[".parquet"])
    named = {field.name: field.metadata[b"origin"].decode() for field in table.schema if b"origin" in field.metadata}
    of_box = ("bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1", "geometry")
    assert named == dict.fromkeys(("centroid_x", "centroid_y", "point_x", "point_y"), "centre of the first pixel") | (
        dict.fromkeys(of_box, "corner of the first pixel")
    )
    shapely = pytest.importorskip("shapely")
    shapes = shapely.centroid(shapely.from_wkb(table["geometry"].to_pylist()))
    middles = np.stack([shapely.get_x(shapes), shapely.get_y(shapes)], axis=1)
    centroids = np.stack([table[f"centroid_{axis}"].to_numpy() for axis in "xy"], axis=1)
    np.testing.assert_allclose((middles - centroids).mean(axis=0), 0.5, atol=0.02)


def test_the_label_image_shows_every_nucleus_where_the_table_has_it(result: SlideResult) -> None:
    labels = np.asarray(zarr.open_group(result.outputs[".labels.zarr"], mode="r")["0"][:])
    table = pq.read_table(result.outputs[".parquet"])
    assert labels.shape == (768, 1024)
    counts = np.bincount(labels.ravel(), minlength=result.nuclei + 1)[1:]
    assert (counts > 0).all()
    np.testing.assert_allclose(counts, table["area_px"].to_numpy(), atol=12, rtol=0.12)
    y, x = np.nonzero(labels)
    owner = labels[y, x]
    for axis, values in (("x", x), ("y", y)):
        centre = np.bincount(owner, values)[1:] / counts
        assert np.abs(centre - table[f"centroid_{axis}"].to_numpy()).max() < 0.5


def test_the_label_image_is_ome_zarr_0_5_by_its_own_models(result: SlideResult) -> None:
    models = pytest.importorskip("ome_zarr_models.v05.image_label", reason="ome-zarr-models is not installed")
    group = zarr.open_group(result.outputs[".labels.zarr"], mode="r")
    checked = models.ImageLabel.from_zarr(group)
    axes = checked.attributes.ome.multiscales[0].axes
    assert [axis.name for axis in axes] == ["y", "x"]
    assert checked.attributes.ome.image_label.colors


def test_the_label_image_is_read_by_ome_zarr(result: SlideResult) -> None:
    reader = pytest.importorskip("ome_zarr.reader", reason="ome-zarr is not installed")
    io = pytest.importorskip("ome_zarr.io")
    located = io.parse_url(str(result.outputs[".labels.zarr"]))
    nodes = list(reader.Reader(located)())
    assert nodes[0].data[0].shape == (768, 1024)


def test_pictures_have_the_slides_shape_with_a_legend(result: SlideResult) -> None:
    for suffix in (".density.png", ".classes.png"):
        width, height = Image.open(result.outputs[suffix]).size
        assert width / (height - 34) == pytest.approx(1024 / 768, rel=0.01)


def test_the_run_is_told_whole(result: SlideResult) -> None:
    run = json.loads(result.run.read_text(encoding="utf-8"))
    assert run["nuclei"] == result.nuclei == sum(run["nuclei_of_class"].values())
    mpp = run["resolution"]["slide_mpp"]
    assert run["area_mm2"] == pytest.approx(1024 * 768 * (mpp / 1000) ** 2, rel=1e-3)
    assert run["nuclei_per_mm2"] == pytest.approx(run["nuclei"] / run["area_mm2"], rel=1e-3)
    areas = np.array(pq.read_table(result.outputs[".parquet"])["area_um2"])
    assert run["median_diameter_um"] == pytest.approx(np.median(np.sqrt(4 / np.pi * areas)), abs=0.1)
    assert run["doubt"] is None
    assert {"read", "prompter", "encoder", "decoder", "total"} <= set(run["timings"]["cores"])
    assert {"networks", "settle", "save"} <= set(run["timings"]["this process"])
    assert len(run["slide"]["sha256"]) == len(run["model"]["manifest_sha256"]) == 64


def test_a_coarser_slide_gives_the_same_nuclei_at_its_own_scale(bundle: Path, mosaic: Path, tmp_path: Path) -> None:
    image = Image.open(mosaic)
    image.resize((512, 384), Image.Resampling.BOX).save(tmp_path / "half.png")
    fine = run_local(mosaic, tmp_path / "fine", bundle, ("parquet",), SlideOptions(mpp=0.25, tissue=False))
    half = run_local(
        tmp_path / "half.png", tmp_path / "half", bundle, ("parquet",), SlideOptions(mpp=0.5, tissue=False)
    )
    places = [
        np.stack([table[f"centroid_{axis}"].to_numpy() + 0.5 for axis in "xy"], axis=1)
        for table in (pq.read_table(each.outputs[".parquet"]) for each in (fine, half))
    ]
    distance = np.linalg.norm(places[0][:, None] - 2 * places[1][None], axis=2).min(axis=1)
    assert np.median(distance) < 1.0
    assert (distance < 6).mean() > 0.85
