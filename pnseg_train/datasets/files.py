"""Finding files, and reading labels out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError


def find(folder: Path, pattern: str) -> list[Path]:
    """Files that match, by name, but none that begin with a dot.

    Archives packed on a Mac hold such a twin, ``._name``, of each file, which is no image.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def read_label(path: Path, grey: bool = False) -> NDArray[Any]:
    """The samples of a label, (H, W) of the file's own 8 or 16 bits.

    An orientation that the file's metadata state is left alone, as that of images is
    (:func:`pnseg_runtime.images.read_image`), so that the one lies on the other as they are stored.

    Args:
        path: of a PNG.
        grey: colours are turned into grey; else a file of several channels is (H, W, channels).

    Raises:
        ImageError: missing, or no PNG that can be read.
    """
    labels = cv2.imread(
        str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION if grey else cv2.IMREAD_UNCHANGED
    )
    if labels is None:
        raise ImageError(f"{path}: missing or not a readable PNG; put it there, or take its image out of the set.")
    return labels
