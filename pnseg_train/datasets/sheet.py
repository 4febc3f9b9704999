"""A contact sheet: a few images of a data set with their nuclei outlined."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pnseg_runtime.contours import outline
from pnseg_train.datasets.sample import Sample, consecutive

WINDOW = 256  # px of the image that are shown
ZOOM = 2  # pixels of the sheet a pixel of the image: enough to see whether outlines sit on the borders
CAPTION = 28  # px
COLORS = ((255, 214, 10), (0, 200, 255), (120, 255, 90), (255, 90, 200), (255, 140, 0), (170, 120, 255))
_SHIFT = 4  # OpenCV draws at 1/16 px


def contact_sheet(cells: Sequence[NDArray[np.uint8]], columns: int = 4) -> NDArray[np.uint8]:
    """Cells of equal shape (h, w, 3) in rows, white where the last row ends."""
    columns = min(columns, len(cells))
    blank = [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    filled = [*cells, *blank]
    return np.concatenate(
        [np.concatenate(filled[start : start + columns], axis=1) for start in range(0, len(filled), columns)]
    )


def draw_cell(sample: Sample, caption: str) -> NDArray[np.uint8]:
    """The middle of a sample, enlarged, its nuclei outlined in the colour of their class, below a caption.

    Returns:
        (CAPTION + ZOOM·WINDOW, ZOOM·WINDOW, 3) uint8; white where the sample is smaller than the window.
    """
    height, width = sample.instances.shape
    top, left = max((height - WINDOW) // 2, 0), max((width - WINDOW) // 2, 0)
    place = slice(top, top + WINDOW), slice(left, left + WINDOW)
    enlarged = cv2.resize(sample.image[place], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(enlarged, np.uint8)
    draw_outlines(image, sample.instances[place], sample.classes[place])
    cell = np.full((CAPTION + ZOOM * WINDOW, ZOOM * WINDOW, 3), 255, np.uint8)
    cell[CAPTION : CAPTION + image.shape[0], : image.shape[1]] = image
    cv2.putText(cell, caption, (6, CAPTION - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def draw_outlines(canvas: NDArray[np.uint8], instances: NDArray[np.int32], classes: NDArray[np.uint8]) -> None:
    """Outline nuclei (H, W) along their pixel edges on a canvas (ZOOM·H, ZOOM·W, 3), in place."""
    labels = consecutive(instances)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[box] == label
        kind = int(classes[box][mask].max())
        rings = [ring for rings in outline(mask, (box[1].start, box[0].start)) for ring in rings]
        curves = [np.round((ring * ZOOM - 0.5) * (1 << _SHIFT)).astype(np.int32) for ring in rings]
        color = COLORS[(kind - 1) % len(COLORS)]
        cv2.polylines(canvas, curves, isClosed=True, color=color, thickness=1, lineType=cv2.LINE_AA, shift=_SHIFT)
