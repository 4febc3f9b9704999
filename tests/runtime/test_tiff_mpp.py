"""Microns per pixel that a TIFF states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tifffile
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pnseg_runtime.images import read_image
from pnseg_runtime.tiff import credible_mpp
from tests.runtime.pictures import RGB


def in_unit(size: float, unit: str) -> dict[str, Any]:
    sides = {f"PhysicalSize{axis}": size for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    return {"axes": "YXS", **sides}


OME = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
MPP_TIFFS: dict[str, tuple[dict[str, Any], float | None]] = {
    "OME": ({"ome": True, "metadata": OME | {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}}, 0.25),
    "OME in mm": ({"ome": True, "metadata": OME | {"PhysicalSizeXUnit": "mm", "PhysicalSizeYUnit": "mm"}}, None),
    "OME in mm one way": (
        {"ome": True, "metadata": OME | {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "mm"}},
        None,
    ),
    "OME without a unit": ({"ome": True, "metadata": OME}, 0.25),
    "OME nearly square": ({"ome": True, "metadata": OME | {"PhysicalSizeY": 0.252}}, 0.251),
    "OME in mm, sensibly": ({"ome": True, "metadata": in_unit(0.00025, "mm")}, 0.25),
    "ImageJ in nm": ({"imagej": True, "resolution": (0.004, 0.004), "metadata": {"unit": "nm", "axes": "YXS"}}, 0.25),
    "OME in two units": (
        {
            "ome": True,
            "metadata": {"axes": "YXS", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25},
        },
        0.25,
    ),
    "OME in cm": ({"ome": True, "metadata": in_unit(0.000025, "cm")}, 0.25),
    "OME in m": ({"ome": True, "metadata": in_unit(2.5e-7, "m")}, 0.25),
    "OME in Å": ({"ome": True, "metadata": in_unit(2500, "Å")}, 0.25),
    "OME in pixels": ({"ome": True, "metadata": in_unit(1, "pixel")}, None),
    "OME not square": ({"ome": True, "metadata": OME | {"PhysicalSizeY": 0.5}}, None),
    "OME absurd": ({"ome": True, "metadata": OME | {"PhysicalSizeX": 350.0, "PhysicalSizeY": 350.0}}, None),
    "ImageJ": ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um", "axes": "YXS"}}, 0.5),
    "ImageJ in inches": ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "inch", "axes": "YXS"}}, None),
    "Aperio": ({"description": "Aperio Image\r\n320x256|AppMag = 20|MPP = 0.4990", "metadata": None}, 0.499),
    "not Aperio": ({"description": "scanned at MPP = 0.4990", "metadata": None}, None),
    "DPI": ({"resolution": (101600, 101600), "resolutionunit": "INCH", "metadata": None}, None),
}


@pytest.mark.parametrize("kind", MPP_TIFFS)
def test_microns_per_pixel_come_from_metadata_that_state_them(kind: str, tmp_path: Path) -> None:
    options, expected = MPP_TIFFS[kind]
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", **options)
    assert read_image(tmp_path / "image.tif").mpp == pytest.approx(expected)


@pytest.mark.parametrize("micron", ["\N{MICRO SIGN}m", "&#181;m", "&#xB5;m", "&#956;m"])
@pytest.mark.parametrize("quote", ['"', "'"])
def test_microns_of_ome_xml_are_known_however_they_are_written(micron: str, quote: str, tmp_path: Path) -> None:
    stated = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "UNIT", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "UNIT"}
    tifffile.imwrite(tmp_path / "made.ome.tif", RGB, photometric="rgb", ome=True, metadata={"axes": "YXS"} | stated)
    with tifffile.TiffFile(tmp_path / "made.ome.tif") as tif:
        xml = (tif.ome_metadata or "").replace("UNIT", micron).replace('"', quote)
    tifffile.imwrite(tmp_path / "image.ome.tif", RGB, photometric="rgb", description=xml.encode(), metadata=None)
    assert read_image(tmp_path / "image.ome.tif").mpp == 0.25


def test_imagejs_resolution_of_no_pixels_states_nothing(tmp_path: Path) -> None:
    metadata = {"unit": "um", "axes": "YXS"}
    tifffile.imwrite(tmp_path / "image.tif", RGB, imagej=True, resolution=((0, 1), (0, 1)), metadata=metadata)
    assert read_image(tmp_path / "image.tif").mpp is None


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
@example(1.0, math.inf)
@example(math.inf, 1.0)
def test_an_mpp_is_credible_only_for_square_pixels_of_a_light_microscope(x: float, y: float) -> None:
    mpp = credible_mpp(x, y)
    assert mpp is None or (0.049 < mpp < 5.1 and abs(x - y) <= 0.0101 * max(x, y))


@given(st.floats(0.04, 6), st.floats(0.97, 1.03))
def test_an_mpp_of_nearly_square_pixels_of_a_light_microscope_is_credible(x: float, factor: float) -> None:
    y = x * factor
    apart = abs(x - y) / max(x, y)
    assume(abs(apart - 0.01) > 1e-9)
    light = all(0.05 <= side <= 5 for side in (x, y))
    assert credible_mpp(x, y) == (pytest.approx((x + y) / 2) if light and apart < 0.01 else None)
