"""A file becomes RGB pixels, or one sentence says why not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from pnseg_runtime import images
from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import image_size, read_image
from tests.runtime.made import SAMPLES
from tests.runtime.pictures import GREY, GREY_RGB, RGB, TWELVE, with_fourth


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif"])
def test_lossless_formats_agree_to_the_pixel(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{suffix}").pixels, RGB)


@pytest.mark.parametrize("suffix", ["jpg", "jp2", "webp"])
def test_lossy_formats_stay_close(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / f"image.{suffix}", quality=95)
    error = np.abs(read_image(tmp_path / f"image.{suffix}").pixels.astype(int) - RGB)
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "jp2", "tif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_never_read_as_tissue(suffix: str, kept: float, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(RGB).save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"damaged or incomplete|not an image"):
        read_image(cut)


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
        met.wait(timeout=60)
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


def test_the_samples_are_rgb_tiles_without_a_pixel_size() -> None:
    read = [read_image(path) for path in sorted(SAMPLES.glob("*.png"))]
    assert [image.pixels.shape for image in read] == [(256, 320, 3)] * 6
    assert {image.mpp for image in read} == {None}
