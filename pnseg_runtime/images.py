"""Image files → RGB pixels: the one door for everything a user may hand in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from pnseg_runtime import tiff
from pnseg_runtime.colour import TO_RGB, Decoded, Samples, UnsupportedImage, doubt_of_depth, to_8_bit, unit_to_8_bit
from pnseg_runtime.errors import ImageError, one_line
from pnseg_runtime.pixels import MAX_PIXELS

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".ppm", ".pgm")

# Only plain raster decoders: some of Pillow's other formats start external programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "JPEG2000", "PPM", "GIF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class RgbImage:
    """An image as the networks see it.

    Attributes:
        pixels: (H, W, 3) uint8, red, green, blue, in the order they are stored in the file.
        mpp: microns per pixel, None unless the file's own metadata state a credible value.
        doubt: one sentence if its samples are hardly what their type says, as 12 bits of a camera stored as 16.
    """

    pixels: NDArray[np.uint8]
    mpp: float | None = None
    doubt: str | None = None


def read_image(path: str | Path) -> RgbImage:
    """Read an image of any usual kind as 8-bit RGB.

    Grey is replicated, alpha is laid on white, CMYK and palettes are converted. Samples of up to 16 bits are
    scaled by the range of their type (16-bit: divided by 257; of a 16-bit RGB PNG the upper byte is taken) or of
    the bits that a TIFF says are used, floating-point ones from 0–1. Of an animation the first frame is taken, of
    a pyramid the full resolution. An EXIF or TIFF orientation is left alone, so that labels and outlines lie on
    the pixels as stored.

    Raises:
        ImageError: the file is missing, empty, damaged, larger than ``MAX_PIXELS``, a stack, or no
            image that has a meaning in RGB.
    """
    path = Path(path)
    with _sentence_for_errors(path):
        with path.open("rb") as stream:
            is_tiff = stream.read(4) in tiff.MAGIC
        decoded = tiff.read_tiff(path, MAX_PIXELS) if is_tiff else _read_pillow(path)
        return RgbImage(TO_RGB[decoded.layout](decoded.samples), decoded.mpp, decoded.doubt)


@contextmanager
def _sentence_for_errors(path: Path) -> Iterator[None]:
    """Check that a file can be an image, and turn what its decoder raises into one sentence."""
    _check_file(path)
    try:
        yield
    except UnsupportedImage as error:
        raise ImageError(f"{path}: cannot be segmented: {error}.") from error
    except PermissionError as error:
        raise ImageError(f"{path}: may not be read; change its permissions or copy it elsewhere.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image of a known kind; convert it to PNG, JPEG or TIFF.") from error
    except MemoryError as error:
        raise ImageError(f"{path}: does not fit into memory; cut the region of interest out of it first.") from error
    except Exception as error:  # decoders of damaged files raise anything
        raise ImageError(
            f"{path}: the image is damaged or incomplete ({one_line(error)}); copy or export it again."
        ) from error


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder; give the image files in it.")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: is a pipe or a device, not a file; save what it gives as a file first.")
        if not path.is_file():
            raise ImageError(f"{path}: no such file; check its path.")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty; copy or export it again.")
    except (OSError, ValueError) as error:  # a path too long, a NUL in it, a folder that may not be entered
        raise ImageError(f"{path}: cannot be opened ({error}); check its path.") from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image that is no TIFF, px, without decoding it.

    Raises:
        ImageError: the file is missing, empty, damaged or no image of a known kind.
    """
    with _sentence_for_errors(path), _opened(path) as image:
        return image.height, image.width


def _read_pillow(path: Path) -> Decoded:
    with _opened(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnsupportedImage(tiff.too_large(width, height, MAX_PIXELS))
        # Pillow has no mode for 16 bits of several channels: it tells only before it decodes, and gives the upper byte.
        upper_byte = image.format == "PNG" and any(";16" in str(tile.args) for tile in image.tile)
        image.load()
        if image.mode in _SIXTEEN_BIT:
            return _sixteen_bit(np.asarray(image))
        samples, layout = _samples_of(image)
        if not upper_byte:
            return Decoded(samples, layout)
        colors = samples[..., :-1] if layout.endswith("A") else samples
        return Decoded(samples, layout, doubt=doubt_of_depth(257 * int(colors.max())))


def _sixteen_bit(grey: NDArray[np.generic]) -> Decoded:
    if grey.min() < 0 or (largest := int(grey.max())) > 65535:
        raise UnsupportedImage("its samples have 32 bits; save it with 8 or 16 bits a channel")
    return Decoded(to_8_bit(grey, 65535), "L", doubt=doubt_of_depth(largest))


def _samples_of(image: Image.Image) -> tuple[Samples, str]:
    """8-bit samples of a Pillow image and their layout."""
    if image.mode == "F":
        return unit_to_8_bit(np.asarray(image)), "L"
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA")), "RGBA"
    if image.mode in ("L", "RGB", "CMYK"):
        return np.asarray(image), image.mode
    return np.asarray(image.convert("RGB")), "RGB"


def _opened(path: Path) -> ImageFile.ImageFile:
    """An image that is open but not decoded yet."""
    # Pillow's limit is a global that refuses honest large images; ours takes its place while one is opened. Decoding
    # the first frame of what we read asks for no limit, and so waits for no other image.
    with _pillow_limit:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
