"""TIFFs of every kind, and what in them is not read as tissue."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from tests.runtime.pictures import GREY, GREY_RGB, RGB, TWELVE, with_fourth

LINEAR = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
HALF = np.full(GREY.shape, 128, np.uint8)
HALF_GLASS = ((RGB.astype(int) * 128 + 255 * 127 + 127) // 255).astype(np.uint8)
SMALL_NUMBERS = np.stack([np.arange(256, dtype=np.uint16)] * 3)
TWELVE_BITS = np.rint(GREY * (4095 / 255)).astype(np.uint16)
LOSSLESS_TIFFS: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
    "plain": (RGB, {"photometric": "rgb"}, RGB),
    "lzw": (RGB, {"photometric": "rgb", "compression": "lzw"}, RGB),
    "tiled deflate": (RGB, {"photometric": "rgb", "compression": "deflate", "tile": (64, 64)}, RGB),
    "zstd": (RGB, {"photometric": "rgb", "compression": "zstd"}, RGB),
    "planar": (np.moveaxis(RGB, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
    "16-bit": (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}, RGB),
    "big-endian 16-bit": (RGB.astype(np.uint16) * 257, {"photometric": "rgb", "byteorder": ">"}, RGB),
    "bigtiff": (RGB, {"photometric": "rgb", "bigtiff": True}, RGB),
    "big-endian bigtiff": (RGB, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}, RGB),
    "grey": (GREY, {"photometric": "minisblack"}, GREY_RGB),
    "12-bit grey": (TWELVE_BITS, {"photometric": "minisblack", "bitspersample": 12}, GREY_RGB),
    "16-bit grey": (GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}, GREY_RGB),
    "white is zero": (GREY, {"photometric": "miniswhite"}, 255 - GREY_RGB),
    "one bit": (GREY > 128, {"photometric": "minisblack"}, np.where(GREY_RGB > 128, 255, 0)),
    "palette": (GREY, {"photometric": "palette", "colormap": LINEAR}, GREY_RGB),
    "palette of 8 bits": (GREY, {"photometric": "palette", "colormap": SMALL_NUMBERS}, GREY_RGB),
    "opaque": (with_fourth(255), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, RGB),
    "transparent": (with_fourth(0), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, np.full_like(RGB, 255)),
    "half transparent": (with_fourth(128), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, HALF_GLASS),
    "multiplied by alpha": (
        np.dstack([RGB // 2, HALF]),
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        RGB // 2 + 127,
    ),
    "grey multiplied by alpha": (
        np.dstack([GREY // 2, HALF]),
        {"photometric": "minisblack", "extrasamples": ["assocalpha"]},
        GREY_RGB // 2 + 127,
    ),
    "unused fourth sample": (with_fourth(0), {"photometric": "rgb", "extrasamples": ["unspecified"]}, RGB),
    "cmyk": (with_fourth(0), {"photometric": "separated"}, 255 - RGB),
    "cmyk with alpha": (
        np.dstack([with_fourth(0), HALF]),
        {"photometric": "separated", "extrasamples": ["unassalpha"]},
        255 - RGB,
    ),
    "float": ((RGB / 255).astype(np.float32), {"photometric": "rgb"}, RGB),
}


@pytest.mark.parametrize("kind", LOSSLESS_TIFFS)
def test_a_tiff_of_every_kind_gives_its_pixels_as_8_bit_rgb(kind: str, tmp_path: Path) -> None:
    stored, options, expected = LOSSLESS_TIFFS[kind]
    tifffile.imwrite(tmp_path / "image.tif", stored, **options)
    pixels = read_image(tmp_path / "image.tif").pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_jpeg_inside_a_tiff_stays_close(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", compression="jpeg", tile=(64, 64))
    error = np.abs(read_image(tmp_path / "image.tif").pixels.astype(int) - RGB)
    assert error.mean() < 3


TWELVE_BIT_TIFFS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "MaxSampleValue": (TWELVE, {"extratags": [(281, "H", 3, (4095,) * 3, True)]}),
    "MaxSampleValue of this image": (TWELVE, {"extratags": [(281, "H", 3, (3808,) * 3, True)]}),
    "SignificantBits": (TWELVE, {"ome": True, "metadata": {"axes": "YXS", "SignificantBits": 12}}),
}


@pytest.mark.parametrize("kind", TWELVE_BIT_TIFFS)
def test_12_bits_in_16_are_seen_by_their_own_range_where_a_tiff_says_so(kind: str, tmp_path: Path) -> None:
    stored, options = TWELVE_BIT_TIFFS[kind]
    tifffile.imwrite(tmp_path / "image.tif", stored, photometric="rgb", **options)
    read = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(read.pixels, RGB)
    assert read.doubt is None


@pytest.mark.parametrize("value", [0, 255, 4095])
def test_bits_that_a_tiff_states_are_not_believed_where_samples_need_more(value: int, tmp_path: Path) -> None:
    tags = [(281, "H", 3, (value,) * 3, True)]
    tifffile.imwrite(tmp_path / "image.tif", RGB.astype(np.uint16) * 257, photometric="rgb", extratags=tags)
    read = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(read.pixels, RGB)
    assert read.doubt is None


def test_the_largest_value_of_an_image_of_16_bits_does_not_change_its_brightness(tmp_path: Path) -> None:
    dark = RGB // 2
    tags = [(281, "H", 3, (int(dark.max()) * 257,) * 3, True)]
    tifffile.imwrite(tmp_path / "image.tif", dark.astype(np.uint16) * 257, photometric="rgb", extratags=tags)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, dark)


def test_a_pyramid_gives_its_full_resolution(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "image.tif") as writer:
        writer.write(RGB, subifds=1, photometric="rgb")
        writer.write(RGB[::2, ::2], subfiletype=1, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, RGB)


SMALLER, LARGER, OTHER = RGB[::2, ::2], np.repeat(RGB, 2, axis=0), np.moveaxis(RGB, 0, 1)


@pytest.mark.parametrize("further", [LARGER, OTHER, GREY.astype(np.uint16)], ids=["larger", "turned", "16-bit grey"])
def test_a_tiff_whose_first_image_is_not_the_largest_is_refused(further: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(further)
    with pytest.raises(ImageError, match=r"several images, the first of 320×256 px.*save the one you want") as caught:
        read_image(path)
    assert f"{further.shape[1]}×{further.shape[0]} px" in str(caught.value)


@pytest.mark.parametrize(("further", "options"), [
    (SMALLER, {}), (GREY > 0, {"subfiletype": 4})
], ids=["thumbnail", "mask of transparency"])  # fmt: skip
def test_what_goes_with_an_image_in_a_tiff_is_passed_over(
    further: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    with tifffile.TiffWriter(tmp_path / "image.tif") as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(further, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, RGB)


def test_a_small_part_of_a_whole_slide_may_have_a_larger_picture_of_the_glass(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "part.svs") as writer:
        writer.write(RGB, photometric="rgb", tile=(64, 64), description="Aperio Image|MPP = 0.5", metadata=None)
        writer.write(SMALLER, photometric="rgb", description="Aperio Image, thumbnail", metadata=None)
        writer.write(LARGER, photometric="rgb", subfiletype=9, description="Aperio Image, macro", metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "part.svs").pixels, RGB)


UNSUPPORTED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "z-stack": (np.stack([GREY] * 3), {"photometric": "minisblack"}, "stack"),
    "stack of RGB": (np.stack([RGB] * 2), {"photometric": "rgb"}, "stack"),
    "ImageJ stack": (np.stack([GREY] * 3), {"imagej": True, "metadata": {"axes": "ZYX"}}, "stack"),
    "NaN": (np.where(RGB > 200, np.nan, 0.5).astype(np.float32), {"photometric": "rgb"}, "NaN"),
    "float below 0": (RGB / np.float32(255) - np.float32(0.5), {"photometric": "rgb"}, "0–1"),
    "float beyond 1": (RGB.astype(np.float32), {"photometric": "rgb"}, "0–1"),
    "32-bit": (RGB.astype(np.int32), {"photometric": "rgb"}, "int32"),
    "CIELAB": (RGB, {"photometric": "cielab"}, "CIELAB"),
    "YCbCr that no JPEG holds": (RGB, {"photometric": "ycbcr"}, "YCBCR"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_tiff_without_one_rgb_meaning_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    stored, options, word = UNSUPPORTED[kind]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored, **options)
    with pytest.raises(ImageError, match=word) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "jpeg"])
def test_a_truncated_tiff_is_never_padded(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression, rowsperstrip=16)
    data = path.read_bytes()
    path.write_bytes(data[:-500])
    with pytest.raises(ImageError, match="damaged or incomplete"):
        read_image(path)


@pytest.mark.parametrize("tags", [["TileOffsets", "TileByteCounts"], ["TileOffsets"], ["TileByteCounts"]])
@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_a_tile_that_was_never_written_is_not_read_as_black_tissue(
    compression: str | None, tags: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression, tile=(64, 64), bigtiff=True)
    data = bytearray(path.read_bytes())
    for tag in tags_of(path, *tags):
        width = struct.calcsize(form := {3: "<H", 4: "<I", 16: "<Q"}[tag.dtype])
        struct.pack_into(form, data, tag.valueoffset + 6 * width, 0)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="lacks 1 of its 20 tiles"):
        read_image(path)


def test_a_list_of_tiles_that_ends_early_is_not_read_as_black_tissue(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), bigtiff=True)
    data = bytearray(path.read_bytes())
    for tag in tags_of(path, "TileOffsets", "TileByteCounts"):
        struct.pack_into("<Q", data, tag.offset + 4, 18)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="lacks 2 of its 20 tiles"):
        read_image(path)


def tags_of(path: Path, *wanted: str) -> list[Any]:
    with tifffile.TiffFile(path) as tif:
        return [tif.pages.first.tags[name] for name in wanted]


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "jpeg"])
def test_black_tiles_that_were_written_are_read(compression: str | None, tmp_path: Path) -> None:
    black = np.zeros_like(RGB)
    tifffile.imwrite(tmp_path / "image.tif", black, photometric="rgb", compression=compression, tile=(64, 64))
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, black)
