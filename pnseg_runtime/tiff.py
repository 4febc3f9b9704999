"""TIFF → 8-bit samples and microns per pixel, whatever the compression, sample width and plane order."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import PHOTOMETRIC

from pnseg_runtime.colour import Decoded, Samples, UnsupportedImage, doubt_of_depth, to_8_bit, unit_to_8_bit
from pnseg_runtime.options import LEAST_MPP, MOST_MPP

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, both byte orders

# (colour space, number of colour samples) → layout of the samples, before alpha.
_LAYOUTS = {
    (PHOTOMETRIC.MINISBLACK, 1): "L",
    (PHOTOMETRIC.MINISWHITE, 1): "L",
    (PHOTOMETRIC.PALETTE, 1): "RGB",
    (PHOTOMETRIC.RGB, 3): "RGB",
    (PHOTOMETRIC.YCBCR, 3): "RGB",  # JPEG only: its decoder returns RGB
    (PHOTOMETRIC.SEPARATED, 4): "CMYK",
}
_JPEG = (6, 7, 33003, 33005, 33007, 34892)  # compressions that carry YCbCr and are decoded to RGB
_ALPHA = {1: "a", 2: "A"}  # extra sample's kind → premultiplied or straight alpha; any other kind is left out
# Whole slides: tifffile gives the slide first, then pictures of label and glass, of which a small cut-out's are larger.
_SLIDES = ("svs", "ndpi", "philips", "bif", "qpi", "avs")
_MOST_OF_CAMERAS = 14  # bits, of those that give fewer than 16

#: Units of length, as files name them → microns. No inch: where that is the unit, dots per inch are all that is known.
MICRONS_IN = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00B5m"), 1.0),
    **dict.fromkeys(("Å", "\N{ANGSTROM SIGN}", "angstrom"), 1e-4),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("m", "meter"), 1e6),
}


def read_tiff(path: Path, max_pixels: int) -> Decoded:
    """Read the image of a TIFF, at full resolution if it is a pyramid.

    Raises:
        UnsupportedImage: a stack, several images of which the first is not the largest, pixels that were never
            written, or a colour space or sample type that has no RGB meaning.
        Exception: whatever tifffile raises on a damaged file.
    """
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        page = series.keyframe
        if series.axes not in ("YX", "YXS", "SYX"):
            size = "×".join(str(n) for n in series.shape)
            raise UnsupportedImage(
                f"it is a stack ({size}, axes {series.axes}), not one image; save the plane you want"
            )
        _check_only(tif, series)
        height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
        if height * width > max_pixels:
            raise UnsupportedImage(too_large(width, height, max_pixels))
        _check_complete(page, path.stat().st_size)
        array = series.asarray()
        if series.axes == "SYX":
            array = np.moveaxis(array, 0, -1)
        samples, layout = normalise_samples(array, page)
        return Decoded(samples, layout, stated_mpp(tif, page), _doubt(array, page))


def too_large(width: int, height: int, max_pixels: int) -> str:
    """The reason given for an image that is not read whole."""
    return (
        f"{width}×{height} px is more than is read whole ({max_pixels // 1_000_000} megapixels); "
        "cut the region of interest out of it first"
    )


def _check_only(tif: tifffile.TiffFile, series: Any) -> None:
    """See that no other image in the file may be the one that is meant; a thumbnail or a mask of transparency is none.

    Raises:
        UnsupportedImage: there is one.
    """
    if series.kind in _SLIDES:
        return
    first = series.keyframe
    for page in (other.keyframe for other in tif.series if other is not series):
        if not page.is_mask and page.imagelength * page.imagewidth >= first.imagelength * first.imagewidth:
            raise UnsupportedImage(
                f"it holds several images, the first of {first.imagewidth}×{first.imagelength} px and another of "
                f"{page.imagewidth}×{page.imagelength} px; save the one you want by itself"
            )


def _check_complete(page: Any, file_size: int) -> None:
    # tifffile pads some short segments with zeros and puts zeros for missing ones, which would be taken for tissue.
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if max((offset + count for offset, count in pieces), default=0) > file_size or not any(page.databytecounts):
        raise EOFError("pixel data end early")
    of = max(len(pieces), math.prod(page.chunked))
    written = sum(offset > 0 and count > 0 for offset, count in pieces)
    if written < of and not page.is_contiguous:
        raise UnsupportedImage(
            f"it lacks {of - written} of its {of} {'tiles' if page.is_tiled else 'strips'}; "
            "export it again as a whole, or use pnseg slide, which takes what is missing for white"
        )


def normalise_samples(array: NDArray[Any], page: Any) -> tuple[Samples, str]:
    """Bring decoded samples to 8 bits and one of the known layouts."""
    photometric, extra = page.photometric, [int(kind) for kind in page.extrasamples]
    colors = page.samplesperpixel - len(extra)
    layout = _LAYOUTS.get((photometric, colors))
    if layout is None or (photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG):
        name = getattr(photometric, "name", photometric)
        raise UnsupportedImage(f"its colour space ({name}, {page.samplesperpixel} samples) is not RGB; save it as RGB")
    if photometric == PHOTOMETRIC.PALETTE:
        index = array if array.ndim == 2 else array[..., 0]
        return _palette(page.colormap)[index], layout
    samples = _eight_bit(array, page)
    if samples.ndim == 3 and samples.shape[2] == 1:
        samples = samples[..., 0]
    if photometric == PHOTOMETRIC.MINISWHITE:
        samples = 255 - samples
    if not extra:
        return samples, layout
    alpha = _ALPHA.get(extra[0], "") if layout != "CMYK" else ""
    kept = samples[..., : colors + len(alpha)]
    return (kept[..., 0] if kept.shape[2] == 1 else kept), layout + alpha


def _eight_bit(array: NDArray[Any], page: Any) -> Samples:
    if array.dtype == np.bool_:
        return to_8_bit(array.astype(np.uint8), 1)
    if array.dtype in (np.uint8, np.uint16):
        return to_8_bit(array, _peak(array, page))
    if array.dtype.kind == "f":
        return unit_to_8_bit(array)
    raise UnsupportedImage(f"its samples are {array.dtype}; save it with 8 or 16 bits a channel")


def _peak(array: NDArray[Any], page: Any) -> int:
    """The largest value that samples can have: of the bits that the file says are used, if no sample needs more."""
    stored = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    full = 2**stored - 1
    if array.dtype != np.uint16 or (used := _used_bits(page)) is None:
        return full
    return min(2**used - 1, full) if array.max(initial=0) < 2**used else full


def _used_bits(page: Any) -> int | None:
    """Bits of a sample that a camera gives, by MaxSampleValue or OME-XML, None if neither is there.

    MaxSampleValue may be the largest one of this image alone, so it stands for all values of as many bits; of 15, which
    no camera gives, for 16.
    """
    if (tag := page.tags.get("MaxSampleValue")) is not None and (largest := int(np.max(tag.value))) > 0:
        return bits if (bits := max(largest.bit_length(), 8)) <= _MOST_OF_CAMERAS else 16
    stated = _ome_pixels(page.parent.ome_metadata or "").get("SignificantBits", "") if page.parent.is_ome else ""
    return max(int(stated), 8) if stated.isdecimal() else None


def _doubt(array: NDArray[Any], page: Any) -> str | None:
    if array.dtype != np.uint16 or page.photometric == PHOTOMETRIC.PALETTE or _peak(array, page) != 65535:
        return None
    colors = array[..., : page.samplesperpixel - len(page.extrasamples)] if array.ndim == 3 else array
    return doubt_of_depth(int(colors.max(initial=0)))


def _palette(colormap: NDArray[np.uint16]) -> Samples:
    """(3, 2^bits) 16-bit → (2^bits, 3) 8-bit; some writers store 8-bit values unscaled."""
    return to_8_bit(colormap.T, 255 if colormap.max() < 256 else 65535)


def stated_mpp(tif: tifffile.TiffFile, page: Any) -> float | None:
    """Microns per pixel by OME-XML, ImageJ or Aperio; the resolution tags alone (DPI) are never one."""
    if tif.is_ome:
        return _ome_mpp(tif.ome_metadata or "")
    if tif.is_imagej:
        metadata = tif.imagej_metadata or {}
        return _imagej_mpp(str(metadata.get("unit", "")), page.tags.get("XResolution"), page.tags.get("YResolution"))
    stated = re.search(r"\bMPP\s*=\s*([\d.]+)", page.description) if page.description.startswith("Aperio") else None
    return credible_mpp(stated[1], stated[1]) if stated else None


def _ome_mpp(xml: str) -> float | None:
    stated = _ome_pixels(xml)
    units = [MICRONS_IN.get(stated.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
    try:
        sides = [float(stated[f"PhysicalSize{axis}"]) for axis in "XY"]
    except (KeyError, ValueError):
        return None
    x, y = (side * (unit or math.nan) for side, unit in zip(sides, units, strict=True))
    return credible_mpp(x, y)


def _ome_pixels(xml: str) -> dict[str, str]:
    """Attributes of the first image's pixels."""
    # Not parsed: a parser expands entities. Those that stand for one character, as &#181; for µ, are harmless.
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    attributes = re.findall(r"""\b(\w+)\s*=\s*(["'])(.*?)\2""", pixels[0]) if pixels else []
    return {name: html.unescape(value) for name, _, value in attributes}


def _imagej_mpp(unit: str, x_tag: Any, y_tag: Any) -> float | None:
    if unit not in MICRONS_IN or x_tag is None or y_tag is None:
        return None
    (x_pixels, x_units), (y_pixels, y_units) = x_tag.value, y_tag.value
    if not x_pixels or not y_pixels:
        return None
    scale = MICRONS_IN[unit]
    return credible_mpp(x_units / x_pixels * scale, y_units / y_pixels * scale)


def credible_mpp(x: float | str, y: float | str) -> float | None:
    """The mean of both sides of a pixel, µm, or None if they are no square pixel of a light microscope."""
    try:
        width, height = float(x), float(y)
    except ValueError:
        return None
    square = abs(width - height) <= 0.01 * max(abs(width), abs(height))
    # Both: of an infinite one no share is too much.
    light = all(LEAST_MPP <= side <= MOST_MPP for side in (width, height))
    return (width + height) / 2 if square and light else None
