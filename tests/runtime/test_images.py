from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from pnseg_runtime import images
from pnseg_runtime.colour import cmyk_to_rgb, premultiplied_on_white, rgba_on_white, to_8_bit
from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import image_size, read_image
from pnseg_runtime.tiff import credible_mpp
from tests.runtime.made import SAMPLES, sample

RGB = sample("he_pink")
GREY = RGB[..., 0]
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
LINEAR = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)


def with_fourth(value: int) -> np.ndarray:
    return np.dstack([RGB, np.full(GREY.shape, value, np.uint8)])


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


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif"])
def test_lossless_formats_agree_to_the_pixel(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{suffix}").pixels, RGB)


@pytest.mark.parametrize("suffix", ["jpg", "jp2", "webp"])
def test_lossy_formats_stay_close(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / f"image.{suffix}", quality=95)
    error = np.abs(read_image(tmp_path / f"image.{suffix}").pixels.astype(int) - RGB)
    assert error.mean() < 3


def test_jpeg_inside_a_tiff_stays_close(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", RGB, photometric="rgb", compression="jpeg", tile=(64, 64))
    error = np.abs(read_image(tmp_path / "image.tif").pixels.astype(int) - RGB)
    assert error.mean() < 3


def test_a_cmyk_jpeg_comes_back_in_its_colours(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "image.jpg").pixels.astype(int) - RGB).mean() < 3


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_a_grey_png_is_replicated(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "image.png")
    expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").pixels, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "pgm"])
def test_16_bit_grey_is_divided_by_257(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{suffix}").pixels, GREY_RGB)


def test_a_16_bit_rgb_png_is_right_to_one_level(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 257 - (RGB > 0) * np.uint16(100)
    (tmp_path / "image.png").write_bytes(imagecodecs.png_encode(deep))
    difference = read_image(tmp_path / "image.png").pixels - deep / 257
    assert np.abs(difference).max() <= 1


TWELVE = RGB.astype(np.uint16) * 16 + (RGB >> 4)  # 0–4095
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


ALPHA = np.full((*GREY.shape, 1), 65535, np.uint16)
DARK: dict[str, tuple[str, np.ndarray, dict[str, Any]]] = {
    "TIFF": ("tif", TWELVE, {"photometric": "rgb"}),
    "TIFF with alpha": ("tif", np.dstack([TWELVE, ALPHA]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "grey TIFF": ("tif", TWELVE[..., 0], {"photometric": "minisblack"}),
    "grey PNG": ("png", TWELVE[..., 0], {}),
    "RGB PNG": ("png", TWELVE, {}),
    "RGBA PNG": ("png", np.dstack([TWELVE, ALPHA]), {}),
}


@pytest.mark.parametrize("kind", DARK)
@pytest.mark.parametrize("bright", [False, True])
def test_16_bits_of_which_a_few_are_used_are_doubted_with_a_remedy(kind: str, bright: bool, tmp_path: Path) -> None:
    suffix, stored, options = DARK[kind]
    stored = stored.copy()
    stored[0, 0] = np.where(bright, 8192, stored[0, 0])  # an eighth of the range
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(imagecodecs.png_encode(stored)) if suffix == "png" else tifffile.imwrite(path, stored, **options)
    doubt = read_image(path).doubt
    assert (doubt is None) == bright
    assert doubt is None or ("of 65535" in doubt and "scale them to 16 bits" in doubt)


def test_black_pixels_of_8_bits_are_not_doubted(tmp_path: Path) -> None:
    Image.fromarray(RGB // 16).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png").doubt is None


def test_a_palette_png_shows_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").pixels, np.asarray(image.convert("RGB")))


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    rgba = with_fourth(255)
    rgba[:50, :50, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "image.png")
    pixels = read_image(tmp_path / "image.png").pixels
    assert (pixels[:50, :50] == 255).all()
    np.testing.assert_array_equal(pixels[50:], RGB[50:])


def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "image.png", transparency=3)
    clear = (np.asarray(image) == 3)[..., None]
    assert clear.any()
    expected = np.where(clear, 255, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").pixels, expected)


def test_an_exif_orientation_does_not_turn_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png").pixels, RGB)


@pytest.mark.parametrize("shape", [(1, 1), (10, 3000), (3000, 10)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_tiny_or_narrow_image_keeps_its_shape(shape: tuple[int, int], suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((*shape, 3), 200, np.uint8)).save(tmp_path / f"image.{suffix}")
    assert read_image(tmp_path / f"image.{suffix}").pixels.shape == (*shape, 3)


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "jp2", "tif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_never_read_as_tissue(suffix: str, kept: float, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(RGB).save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"damaged or incomplete|not an image"):
        read_image(cut)


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


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "empty"), (b"nuclei, alas", "not an image"), (b"\x93NUMPY\x01\x00", "not an image")],
)
def test_what_is_no_image_is_named_with_a_remedy(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ";" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)


def test_a_path_that_cannot_exist_is_one_sentence() -> None:
    with pytest.raises(ImageError):
        read_image("a" * 5000 + ".png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_image_over_the_limit_is_refused_before_it_is_decoded(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / f"image.{suffix}")
    monkeypatch.setattr(images, "MAX_PIXELS", 320 * 256 - 1)
    with pytest.raises(ImageError, match="320×256 px is more than is read whole"):
        read_image(tmp_path / f"image.{suffix}")
    monkeypatch.setattr(images, "MAX_PIXELS", 320 * 256)
    assert read_image(tmp_path / f"image.{suffix}").pixels.shape == RGB.shape


def test_pillows_own_limit_neither_stops_an_image_nor_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(RGB).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png").pixels.shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "WEBP", "JPEG2000", "PPM", "GIF"])
def test_decoding_asks_for_no_limit_of_pillows(format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    more = {"save_all": True, "append_images": frames[1:], "disposal": 2} if format_ == "GIF" else {}
    frames[0].save(tmp_path / "image", format=format_, **more)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "image").pixels.shape == RGB.shape


def test_threads_decode_images_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "image.png")
    met = threading.Barrier(2)
    load = PngImageFile.load

    def meet(image: PngImageFile) -> Any:
        met.wait(timeout=10)
        return load(image)

    monkeypatch.setattr(PngImageFile, "load", meet)
    with ThreadPoolExecutor(2) as threads:
        read = list(threads.map(read_image, [tmp_path / "image.png"] * 2))
    assert all((image.pixels == RGB).all() for image in read)


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "may not be read"),
        (MemoryError(), "does not fit into memory"),
        (OSError("broken data stream"), "damaged or incomplete \\(broken data stream\\)"),
        (UnidentifiedImageError("what is it"), "not an image of a known kind"),
    ],
)
def test_what_keeps_an_image_from_being_opened_is_told_apart(
    error: Exception, words: str, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    Image.fromarray(RGB).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=words):
        read(tmp_path / "image.png")


def test_the_size_of_an_image_is_known_without_decoding(tmp_path: Path) -> None:
    data = (SAMPLES / "he_pink.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "half.png") == (256, 320)


def test_programs_posing_as_images_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    for look in (read_image, image_size):
        with pytest.raises(ImageError, match="not an image"):
            look(tmp_path / "image.png")


def test_the_size_of_an_image_is_its_height_and_width() -> None:
    assert image_size(SAMPLES / "he_pink.png") == (256, 320)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "does not fit into memory"),
        (ValueError("two\n  lines"), r"\(two\)"),
        (ValueError(), r"\(ValueError\)"),
    ],
)
def test_whatever_a_decoder_raises_is_one_sentence(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    tifffile.imwrite(tmp_path / "image.tif", RGB)
    monkeypatch.setattr(images.tiff, "read_tiff", fail)
    with pytest.raises(ImageError, match=words):
        read_image(tmp_path / "image.tif")


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


def test_the_samples_are_rgb_tiles_without_a_pixel_size() -> None:
    read = [read_image(path) for path in sorted(SAMPLES.glob("*.png"))]
    assert [image.pixels.shape for image in read] == [(256, 320, 3)] * 6
    assert {image.mpp for image in read} == {None}


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
@example(1.0, math.inf)
@example(math.inf, 1.0)
def test_an_mpp_is_credible_only_for_square_pixels_of_a_light_microscope(x: float, y: float) -> None:
    mpp = credible_mpp(x, y)
    assert mpp is None or (0.049 < mpp < 5.1 and abs(x - y) <= 0.0101 * max(x, y))


@given(st.integers(1, 16), st.data())
def test_scaling_keeps_the_ends_and_the_order(bits: int, data: st.DataObject) -> None:
    peak = 2**bits - 1
    values = np.array([*sorted(data.draw(st.lists(st.integers(0, peak), min_size=1))), peak], np.uint16)
    scaled = to_8_bit(np.concatenate([[np.uint16(0)], values]), peak)
    assert scaled[0] == 0
    assert scaled[-1] == 255
    assert (np.diff(scaled.astype(int)) >= 0).all()
    np.testing.assert_allclose(scaled[1:], values / peak * 255, atol=0.5 + 1e-9)


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4))
def test_alpha_and_ink_match_their_formula_to_the_nearest_level(sample_: list[int]) -> None:
    pixel = np.array(sample_, np.uint8).reshape(1, 1, 4)
    color, fourth = pixel[0, 0, :3] / 255, sample_[3] / 255
    np.testing.assert_allclose(rgba_on_white(pixel)[0, 0], 255 * (color * fourth + 1 - fourth), atol=0.5 + 1e-9)
    np.testing.assert_allclose(cmyk_to_rgb(pixel)[0, 0], 255 * (1 - color) * (1 - fourth), atol=0.5 + 1e-9)


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(0, 255))
def test_premultiplied_alpha_agrees_with_straight_alpha(color: list[int], alpha: int) -> None:
    straight = np.array([*color, alpha], np.uint8).reshape(1, 1, 4)
    multiplied = straight.copy()
    multiplied[..., :3] = (straight[..., :3].astype(int) * alpha + 127) // 255
    difference = premultiplied_on_white(multiplied).astype(int) - rgba_on_white(straight)
    assert np.abs(difference).max() <= 1


def test_colours_brighter_than_their_alpha_allows_are_white() -> None:
    assert premultiplied_on_white(np.array([[[255, 9, 0, 0]]], np.uint8)).tolist() == [[[255, 255, 255]]]
