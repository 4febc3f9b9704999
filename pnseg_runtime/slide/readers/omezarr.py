"""OME-Zarr images, 0.4 and 0.5: three 8-bit channels, read chunk by chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pnseg_runtime.errors import one_line
from pnseg_runtime.slide.readers.base import Box, Facts, Level, NotMine, Pixels, SlideReader
from pnseg_runtime.tiff import MICRONS_IN, credible_mpp

_FIRST = "0"  # the first image of a bioformats2raw.layout


def open_slide(path: Path) -> SlideReader:
    """Open the first multiscale image of a Zarr folder, or of the first image in it, as bioformats2raw lays them out.

    Raises:
        NotMine: it is no OME-Zarr image of three 8-bit channels.
    """
    try:
        group: Any = zarr.open_group(str(path), mode="r")
        scales = _scales_of(group)
        if scales is None and _FIRST in group:
            group = group[_FIRST]
            scales = _scales_of(group)
        if scales is None:
            raise NotMine("no multiscales metadata")
        return OmeZarrReader(path, group, scales)
    except NotMine:
        raise
    except Exception as error:
        raise NotMine(one_line(error)) from error


def _scales_of(group: Any) -> dict[str, Any] | None:
    """The metadata of a group's first multiscale image."""
    attributes: dict[str, Any] = dict(getattr(group, "attrs", {}))
    scales: dict[str, Any] | None = (attributes.get("ome", attributes).get("multiscales") or [None])[0]
    return scales


class OmeZarrReader(SlideReader):
    """An OME-Zarr image; of other axes than c, y and x the first entry is taken."""

    def __init__(self, path: Path, group: Any, scales: dict[str, Any]) -> None:
        self._axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales["axes"]]
        self._arrays = [group[entry["path"]] for entry in scales["datasets"]]
        full = self._arrays[0]
        channels = dict(zip(self._axes, full.shape, strict=True)).get("c", 0)
        if channels < 3 or full.dtype != np.uint8 or not {"x", "y", "c"} <= set(self._axes):
            raise NotMine(f"it has {channels} channels of {full.dtype}, not three of uint8")
        common = _scale_of(scales, self._axes)  # of all levels, beside their own
        steps = [_scale_of(entry, self._axes, common) for entry in scales["datasets"]]
        levels = tuple(
            Level((array.shape[self._axes.index("y")], array.shape[self._axes.index("x")]), step[0] / steps[0][0])
            for array, step in zip(self._arrays, steps, strict=True)
        )
        unit = MICRONS_IN.get(_unit_of(scales["axes"]), 0.0)
        files = tuple(sorted(file for file in path.rglob("*") if file.is_file()))
        mpp = credible_mpp(steps[0][0] * unit, steps[0][1] * unit) if unit else None
        hint = "" if unit else "its axes have no unit of length"
        super().__init__("ome-zarr", path, Facts(levels=levels, mpp=mpp, hint=hint, files=files))

    def _read(self, level: int, box: Box) -> Pixels:
        x0, y0, x1, y1 = box
        wanted: dict[str, Any] = {"y": slice(y0, y1), "x": slice(x0, x1), "c": slice(0, 3)}
        block = np.asarray(self._arrays[level][tuple(wanted.get(axis, 0) for axis in self._axes)])
        left = [axis for axis in self._axes if axis in wanted]
        return np.ascontiguousarray(block.transpose([left.index(axis) for axis in ("y", "x", "c")]))


def _scale_of(entry: dict[str, Any], axes: list[str], within: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """(x, y) size of a pixel in the axes' unit, multiplied by those that it lies within."""
    x, y = within
    for transform in entry.get("coordinateTransformations", []):
        if transform.get("type") == "scale":
            return x * float(transform["scale"][axes.index("x")]), y * float(transform["scale"][axes.index("y")])
    return x, y


def _unit_of(axes: list[Any]) -> str:
    units = {axis.get("unit", "") for axis in axes if isinstance(axis, dict) and axis["name"] in ("x", "y")}
    return str(units.pop()) if len(units) == 1 else ""
