"""The result of a prediction: one row a nucleus, and its mask cut to its box."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class NucleusClass:
    """A class of the model and the colour it is drawn in (red, green, blue, 0–255)."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Nuclei:
    """N nuclei of one image, ordered by descending predicted IoU of their masks.

    Attributes:
        shape: (height, width) of the image, px.
        points: (N, 2) float32, the prompt (x, y) of each nucleus, px, pixel centres at integers.
        classes: (N,) int64, index into ``class_table``.
        scores: (N,) float32, the prompter's probability of that class, 0–1.
        ious: (N,) float32, the segmentor's predicted IoU.
        boxes: (N, 4) int32, (x0, y0, x1, y1) of the visible mask, x1 and y1 exclusive, px.
        masks: N boolean arrays of shape (y1 - y0, x1 - x0), what is visible of each nucleus
            after painting (a more confident nucleus covers a less confident one).
        class_table: the model's classes.
        mpp: microns per pixel of the image, None if unknown.
        timings: seconds spent in each stage.
    """

    shape: tuple[int, int]
    points: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    ious: NDArray[np.float32]
    boxes: NDArray[np.int32]
    masks: tuple[Mask, ...]
    class_table: tuple[NucleusClass, ...]
    mpp: float | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    def instance_map(self) -> NDArray[np.int32]:
        """The label map (H, W): 0 is background, nucleus i has the value i + 1."""
        labels = np.zeros(self.shape, np.int32)
        for label, ((x0, y0, x1, y1), mask) in enumerate(zip(self.boxes, self.masks, strict=True), start=1):
            labels[y0:y1, x0:x1][mask] = label
        return labels

    def centroids(self) -> NDArray[np.float32]:
        """(N, 2) mean (x, y) of each visible mask's pixel centres, px."""
        from pnseg_runtime.measure import measure

        return measure(self.masks, self.boxes[:, :2]).centroids

    def polygons(self) -> list[list[list[NDArray[np.float32]]]]:
        """Outlines of every nucleus along pixel edges, see :func:`pnseg_runtime.contours.outlines`."""
        from pnseg_runtime.contours import outlines

        return outlines(self.masks, self.boxes[:, :2])
