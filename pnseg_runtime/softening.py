"""How sharply the networks see an image: what its file adds to it should not count (not of the paper).

JPEG keeps differences of colour (Cb, Cr) at full or at half resolution, more or less coarsely: what is left of their
detail is the file's. In an image that was enlarged to the model's resolution, everything as small as the file's pixels
is the file's as well: the steps of its compression, and the seams that a scanner's sharpening draws. The prompter does
not see that either; the segmentor does, since outlines need all that there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.options import Settings


@dataclass(frozen=True)
class Blur:
    """Standard deviations of Gaussians, px of the model's; 0 for none.

    Attributes:
        brightness: of Y.
        colour: of the differences of colour, Cb and Cr.
    """

    brightness: float = 0.0
    colour: float = 0.0

    @property
    def reach(self) -> int:
        """How far from a pixel :func:`soften` looks, px."""
        return max(_reach(self.brightness), _reach(self.colour))

    def __bool__(self) -> bool:
        return bool(self.brightness or self.colour)


@dataclass(frozen=True)
class Blurs:
    """What an image is blurred by for each of the two networks."""

    prompter: Blur = Blur()
    segmentor: Blur = Blur()

    @classmethod
    def of(cls, settings: Settings, enlargement: float) -> Blurs:
        """What holds for an image that was enlarged so many times to the model's resolution."""
        brightness, colour = (blur * max(enlargement - 1.0, 0.0) for blur in settings.enlarged_blur)
        usual = Blur(colour=settings.colour_blur)
        return cls(prompter=Blur(brightness, usual.colour + colour), segmentor=usual)

    @property
    def reach(self) -> int:
        """How far from a pixel :func:`see` looks, px."""
        return max(self.prompter.reach, self.segmentor.reach)


@dataclass(frozen=True)
class Seen:
    """An image (H, W, 3) uint8 as each of the two networks sees it; one array where they see the same."""

    prompter: NDArray[np.uint8]
    segmentor: NDArray[np.uint8]

    @classmethod
    def alike(cls, rgb: NDArray[np.uint8]) -> Seen:
        """The same for both."""
        return cls(rgb, rgb)

    def cut(self, x0: int, y0: int, x1: int, y1: int) -> Seen:
        """A part of it."""
        part = np.ascontiguousarray(self.segmentor[y0:y1, x0:x1])
        if self.prompter is self.segmentor:
            return Seen.alike(part)
        return Seen(np.ascontiguousarray(self.prompter[y0:y1, x0:x1]), part)


def see(rgb: NDArray[np.uint8], blurs: Blurs) -> Seen:
    """An image as the two networks see it, who need not see it equally sharp."""
    segmentor = soften(rgb, blurs.segmentor)
    return Seen(segmentor if blurs.prompter == blurs.segmentor else soften(rgb, blurs.prompter), segmentor)


def soften(rgb: NDArray[np.uint8], blur: Blur) -> NDArray[np.uint8]:
    """An image with its brightness and its differences of colour blurred, each for itself.

    Args:
        rgb: (H, W, 3) uint8.
        blur: how far.

    Returns:
        (H, W, 3) uint8, the same at every pixel wherever the image is cut farther than ``blur.reach`` from it.
    """
    if not blur:
        return rgb
    brightness, *differences = cv2.split(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2YCrCb))
    planes = [_blurred(brightness, blur.brightness), *(_blurred(plane, blur.colour) for plane in differences)]
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YCrCb2RGB))


def _blurred(plane: cv2.typing.MatLike, deviation: float) -> cv2.typing.MatLike:
    if not deviation:
        return plane
    side = 2 * _reach(deviation) + 1
    return cv2.GaussianBlur(plane, (side, side), deviation)  # of bytes: exact, by integers


def _reach(deviation: float) -> int:
    return math.ceil(3 * deviation)
