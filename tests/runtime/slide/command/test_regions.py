"""Regions of interest of pnseg slide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.slide.command.results import contents, rows
from tests.runtime.slide.made import two_pieces


def test_a_region_on_glass_between_tissue_is_a_warning_and_has_no_nuclei_per_mm2(run, tmp_path: Path) -> None:
    path = two_pieces(tmp_path / "two.tif", 1280)
    done = run(path, "--mpp", "0.25", "--only", "parquet", "--roi", "0,620,500,40", "--json")
    assert done.exit_code == 0, done.output
    assert "two.tif: nothing was looked at" in done.stderr
    facts = json.loads((tmp_path / "out" / "two.run.json").read_text())
    assert (facts["cores"], facts["area_mm2"], facts["nuclei_per_mm2"]) == (1, 0, None)
    assert json.loads(done.stdout)["slides"][0]["nuclei_per_mm2"] is None


def test_a_rectangle_keeps_the_nuclei_inside_it_and_changes_none(run, slide: Path, tmp_path: Path) -> None:
    run(slide, "--mpp", "0.25", "--only", "parquet", "--no-tissue")
    everything = rows(tmp_path / "out" / "slide.parquet")
    done = run(slide, "--mpp", "0.25", "--only", "parquet", "--no-tissue", "--roi", "100,50,200,180")
    assert "starting anew" in done.stderr
    inside = [r for r in everything if 99.5 <= r["point_x"] < 299.5 and 49.5 <= r["point_y"] < 229.5]
    found = rows(tmp_path / "out" / "slide.parquet")
    assert 0 < len(found) < len(everything)
    assert {(r["point_x"], r["point_y"]) for r in found} == {(r["point_x"], r["point_y"]) for r in inside}


def test_polygons_with_holes_are_regions_of_interest(run, slide: Path, tmp_path: Path) -> None:
    square = [[0, 0], [512, 0], [512, 384], [0, 384], [0, 0]]
    hole = [[100, 50], [300, 50], [300, 230], [100, 230], [100, 50]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square, hole]}, "properties": {}}
    (tmp_path / "roi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    run(slide, "--mpp", "0.25", "--only", "parquet", "--no-tissue", "--roi", tmp_path / "roi.geojson")
    found = rows(tmp_path / "out" / "slide.parquet")
    assert found
    assert not [r for r in found if 100 < r["point_x"] < 299 and 50 < r["point_y"] < 229]


@pytest.mark.parametrize(
    ("text", "said"), [("1,2,3", "no region of interest"), ("1,2,-3,4", "over 0"), ("0,0,inf,9", "finite")]
)
def test_a_region_that_is_none_is_one_sentence(run, slide: Path, text: str, said: str) -> None:
    done = run(slide, "--mpp", "0.25", "--roi", text)
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.parametrize("keep", ["--keep-work", "--no-keep-work"])
@pytest.mark.parametrize("region", ["rectangle", "polygon"])
def test_a_region_beside_the_slide_is_an_error_that_costs_no_result(
    region: str, keep: str, run, slide: Path, tmp_path: Path
) -> None:
    asked = (slide, "--mpp", "0.25", "--only", "parquet", keep)
    assert run(*asked).exit_code == 0
    before = contents(tmp_path / "out")
    beside = "100000,0,10,10"
    if region == "polygon":
        ring = [[600, 10], [700, 10], [700, 90], [600, 10]]
        beside = str(tmp_path / "beside.geojson")
        Path(beside).write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    done = run(*asked, "--roi", beside)
    assert done.exit_code == 1
    assert f"{slide}: no part of it lies in the region of interest {beside}; the slide is 512×384 px" in done.stderr
    assert contents(tmp_path / "out") == before
