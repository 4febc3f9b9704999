"""Many small masks in one image, so that one pass over it does for all of them what would be a call for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.nuclei import Mask


@dataclass(frozen=True)
class Atlas:
    """N masks beside each other, none touching another or the border.

    Attributes:
        labels: (H, W) int32, 0 where there is no mask, i + 1 on mask i.
        origins: (N, 2) int64, (x, y) of each mask's first pixel.
    """

    labels: NDArray[np.int32]
    origins: NDArray[np.int64]

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Atlas:
        """Lay masks out in rows, the tall ones first; the memory is about that of their boxes."""
        sizes = np.array([mask.shape for mask in masks], np.int64).reshape(-1, 2) + 1  # with a gap behind each
        width = int(max(sizes[:, 1].max(initial=0), np.ceil(np.sqrt(sizes.prod(axis=1).sum())))) + 1
        origins = np.zeros((len(masks), 2), np.int64)
        x, y, below = 1, 1, 1
        for index in np.argsort(-sizes[:, 0], kind="stable").tolist():
            tall, wide = sizes[index].tolist()
            if x + wide > width:
                x, y = 1, below
            origins[index] = x, y
            x, below = x + wide, max(below, y + tall)
        labels = np.zeros((below + 1, width + 1), np.int32)
        for label, (mask, (left, top)) in enumerate(zip(masks, origins.tolist(), strict=True), start=1):
            labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = label
        return cls(labels, origins)

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def foreground(self) -> NDArray[np.uint8]:
        """(H, W) uint8, 1 on masks."""
        return (self.labels > 0).view(np.uint8)

    def borders(self, mode: int, method: int) -> tuple[NDArray[np.intp], Sequence[NDArray[np.int32]]]:
        """OpenCV's contours of all masks, and the mask that each belongs to.

        A hole's contour lies on the pixels around it, so its first point is on a mask as well.

        Args:
            mode: ``cv2.RETR_…``.
            method: ``cv2.CHAIN_APPROX_…``.
        """
        contours: Any = cv2.findContours(self.foreground, mode, method)[0]
        first = np.array([contour[0, 0] for contour in contours], np.intp).reshape(-1, 2)
        return self.labels[first[:, 1], first[:, 0]].astype(np.intp) - 1, contours
