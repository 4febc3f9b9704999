"""Small pictures of a slide, for those who look rather than read: tissue, density, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pnseg_runtime.nuclei import NucleusClass
from pnseg_runtime.slide.area import Area
from pnseg_runtime.slide.outputs.rows import Part, Sink
from pnseg_runtime.slide.plan import Plan
from pnseg_runtime.slide.readers.base import Pixels
from pnseg_runtime.slide.resolution import Resolution
from pnseg_runtime.slide.tissue import Thumbnail

if TYPE_CHECKING:
    from pnseg_runtime.slide.job import SlideJob

_GREEN, _BLUE, _GREY, _RED = (0, 170, 0), (30, 80, 255), (120, 120, 120), (230, 0, 0)
_CELL_MICRONS = 50  # side of the cells in which nuclei are counted
_SMALLEST_SIDE = 480  # px: a smaller picture is enlarged, so that a legend can be read
_MARGIN = 34  # px under a picture for its legend


def draw_tissue(thumbnail: Thumbnail, area: Area, plan: Plan, resolution: Resolution) -> Pixels:
    """The thumbnail with the outline of tissue (green), of regions of interest (blue) and the cores (grey)."""
    canvas = thumbnail.pixels.copy()
    for core in plan.cores:
        x0, y0, x1, y1 = (resolution.full_edges(np.array(core.core)) / thumbnail.scale).round().astype(int).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), _GREY, 1)
    if area.tissue is not None:
        outlines, _ = cv2.findContours(area.tissue.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, _GREEN, 2)
    for rings in () if area.roi is None else area.roi.polygons:
        lines = [(ring / thumbnail.scale).round().astype(np.int32) for ring in rings]
        cv2.polylines(canvas, lines, isClosed=True, color=_BLUE, thickness=2)
    return canvas


class PictureSink(Sink):
    """Counts and colours nuclei on the thumbnail."""

    def __init__(self, job: SlideJob, density: BinaryIO, classes: BinaryIO) -> None:
        thumbnail, class_table, mpp = job.thumbnail, job.bundle.manifest.class_table, job.resolution.slide_mpp
        height, width = thumbnail.shape
        self._density, self._classes = density, classes
        self._thumbnail = thumbnail
        self._kinds = {kind.name: index for index, kind in enumerate(class_table)}
        self._table = class_table
        self._cell = max(_CELL_MICRONS / mpp, thumbnail.scale)  # px of level 0
        self._cell_area = (self._cell * mpp / 1000) ** 2  # mm²
        shape = tuple(math.ceil(side * thumbnail.scale / self._cell) for side in (height, width))
        self._counts = np.zeros(shape, np.int64)
        self._areas = np.zeros((len(class_table), height, width), np.float32)

    def add(self, part: Part) -> None:
        table = part.rows
        if not table.num_rows:
            return
        x, y = (table[name].to_numpy() for name in ("point_x", "point_y"))
        _count(self._counts, x, y, self._cell, np.ones(len(x), np.int64))
        kinds = np.array([self._kinds[name] for name in table["class"].to_pylist()])
        area = table["area_px"].to_numpy() / self._thumbnail.scale**2
        for kind in np.unique(kinds):
            of_kind = kinds == kind
            _count(self._areas[kind], x[of_kind], y[of_kind], self._thumbnail.scale, area[of_kind].astype(np.float32))

    def close(self) -> None:
        self._write_density(self._density)
        self._write_classes(self._classes)

    def _write_density(self, stream: BinaryIO) -> None:
        """Nuclei per mm² in cells of 50 µm, smoothed, over the thumbnail."""
        density = np.asarray(cv2.GaussianBlur(self._counts.astype(np.float32), (0, 0), 1.0), np.float32) / np.float32(
            self._cell_area
        )
        height, width = self._thumbnail.shape
        wide = cv2.resize(density, (width, height), interpolation=cv2.INTER_LINEAR)
        used = density[self._counts > 0]
        top = _round_up(float(np.percentile(used, 99))) if used.size else 1.0
        share = np.clip(wide / top, 0, 1)
        heat = cv2.cvtColor(cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        opaque = np.clip(share * 8, 0, 0.85)[..., None]
        picture = (self._thumbnail.pixels * (1 - opaque) + heat * opaque).astype(np.uint8)
        _with_scale(picture, top).save(stream, format="PNG")

    def _write_classes(self, stream: BinaryIO) -> None:
        """The thumbnail in the colours of the classes, as deep as nuclei cover it."""
        smooth = np.stack([np.asarray(cv2.GaussianBlur(area, (0, 0), 1.0), np.float32) for area in self._areas])
        cover = smooth.sum(axis=0)
        colors = np.array([kind.color for kind in self._table], np.float32)
        mixed = np.tensordot(smooth, colors, axes=(0, 0)) / np.maximum(cover, 1e-6)[..., None]
        opaque = np.clip(cover * 2.5, 0, 0.8)[..., None]
        picture = (self._thumbnail.pixels * (1 - opaque) + mixed * opaque).astype(np.uint8)
        _with_key(picture, self._table).save(stream, format="PNG")


def _count(
    grid: NDArray[np.generic], x: NDArray[np.float64], y: NDArray[np.float64], cell: float, what: NDArray[np.generic]
) -> None:
    height, width = grid.shape
    columns = np.clip(((x + 0.5) / cell).astype(np.intp), 0, width - 1)
    rows = np.clip(((y + 0.5) / cell).astype(np.intp), 0, height - 1)
    np.add.at(grid, (rows, columns), what)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 and so on."""
    power = 10 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _framed(picture: Pixels) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """A picture with a white margin below; where that begins."""
    image = Image.fromarray(picture)
    grow = math.ceil(_SMALLEST_SIDE / image.width)
    if grow > 1:
        image = image.resize((image.width * grow, image.height * grow), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (image.width, image.height + _MARGIN), "white")
    framed.paste(image, (0, 0))
    return framed, ImageDraw.Draw(framed), image.height


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)


def _with_scale(picture: Pixels, top: float) -> Image.Image:
    """A picture with a colour bar from 0 to ``top`` nuclei per mm²."""
    framed, draw, start = _framed(picture)
    ramp = np.linspace(0, 255, 200).astype(np.uint8)[None].repeat(14, axis=0)
    bar = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    framed.paste(Image.fromarray(bar), (30, start + 10))
    draw.text((14, start + 8), "0", fill="black", font=_font())
    draw.text((238, start + 8), f"{top:,.0f} nuclei/mm²", fill="black", font=_font())
    return framed


def _with_key(picture: Pixels, table: Sequence[NucleusClass]) -> Image.Image:
    """A picture with the classes and their colours."""
    framed, draw, start = _framed(picture)
    x = 14
    for kind in table:
        draw.rectangle((x, start + 10, x + 14, start + 24), fill=kind.color, outline="black")
        draw.text((x + 20, start + 8), kind.name, fill="black", font=_font())
        x += 40 + int(draw.textlength(kind.name, font=_font()))
    return framed
