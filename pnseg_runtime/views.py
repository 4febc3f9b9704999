"""Views of a window or image for test-time augmentation (§3.3): flips and quarter turns, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.prompts import Coordinates

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class View:
    """An image mirrored left to right, if ``flipped``, and then turned anticlockwise.

    Attributes:
        name: for people.
        flipped: whether it is mirrored.
        turns: of 90 degrees.
    """

    name: str
    flipped: bool = False
    turns: int = 0

    def of(self, images: NDArray[Scalar]) -> NDArray[Scalar]:
        """The view of images (…, H, W)."""
        mirrored = images[..., ::-1] if self.flipped else images
        return np.ascontiguousarray(np.rot90(mirrored, self.turns, axes=(-2, -1)))

    def back(self, maps: NDArray[Scalar]) -> NDArray[Scalar]:
        """Maps (…, s, s) of the view, of any size, as those of the image."""
        turned = np.rot90(maps, -self.turns, axes=(-2, -1))
        return turned[..., ::-1] if self.flipped else turned

    def pixels(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view of an image (H, W, 3)."""
        return self.of(rgb.transpose(2, 0, 1)).transpose(1, 2, 0)

    def returned(self, coords: Coordinates, shape: tuple[int, int]) -> Coordinates:
        """Points (N, 2), (x, y) in px of the view, where they lie in the image.

        Args:
            coords: (N, 2) float32.
            shape: (height, width) of the image, px.
        """
        (x, y), (height, width) = coords.T, shape
        for turn in reversed(range(self.turns)):
            x, y = (height if turn % 2 else width) - 1 - y, x
        x = width - 1 - x if self.flipped else x
        return np.stack([x, y], axis=-1).astype(np.float32)

    def moved(self, coords: Coordinates, labels: NDArray[np.float32], side: int) -> Coordinates:
        """Prompts (P, n, 2), (x, y) in px of the image, where they lie in the view; missing ones stay at (0, 0).

        Args:
            coords: (P, n, 2) float32.
            labels: (P, n) float32, −1 for a missing prompt.
            side: S, px.
        """
        x, y = coords[..., 0], coords[..., 1]
        x = side - 1 - x if self.flipped else x
        for _ in range(self.turns):
            x, y = y, side - 1 - x
        placed = np.where(labels[..., None] < 0, np.float32(0), np.stack([x, y], axis=-1))
        return placed.astype(np.float32)


#: The image as it is.
PLAIN = (View("original"),)

#: The method's six: flips left to right and top to bottom, turns by 90, 180 and 270 degrees.
SIX = (
    *PLAIN,
    View("left to right", flipped=True),
    View("top to bottom", flipped=True, turns=2),
    View("90°", turns=1),
    View("180°", turns=2),
    View("270°", turns=3),
)
