"""Images that are read whole: PNG, JPEG and the others of ``pnseg predict``."""

from __future__ import annotations

from pathlib import Path

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import RgbImage, image_size, read_image
from pnseg_runtime.slide.readers.base import Box, Facts, Level, NotMine, Pixels, SlideReader, is_tiff

#: px that are held in memory, 300 MB; a larger image needs a reader that decodes it bit by bit.
MAX_PIXELS = 100_000_000


def open_slide(path: Path) -> SlideReader:
    """Read an image.

    Raises:
        NotMine: it is no image, damaged, or too large to be read whole.
    """
    if not is_tiff(path):
        try:
            height, width = image_size(path)
        except ImageError as error:
            raise NotMine("not an image of a known kind") from error
        if width * height > MAX_PIXELS:
            raise NotMine(f"{width}×{height} px are more than is read whole ({MAX_PIXELS // 1_000_000} megapixels)")
    try:
        return ImageReader(path, read_image(path))
    except ImageError as error:
        raise NotMine(str(error).removeprefix(f"{path}: ")) from error


class ImageReader(SlideReader):
    """An image in memory."""

    def __init__(self, path: Path, image: RgbImage) -> None:
        self._pixels = image.pixels
        facts = Facts(
            levels=(Level((image.pixels.shape[0], image.pixels.shape[1]), 1.0),), mpp=image.mpp, files=(path,)
        )
        super().__init__("image", path, facts)

    def _read(self, level: int, box: Box) -> Pixels:
        x0, y0, x1, y1 = box
        return self._pixels[y0:y1, x0:x1]
