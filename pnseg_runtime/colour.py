"""Stored samples → 8-bit RGB: sample width, alpha and ink, all integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8]


class UnsupportedImage(ValueError):  # noqa: N818 - an explanation on its way into an ImageError
    """A sound image that has no meaning in RGB; the text says why and what to do."""


@dataclass(frozen=True)
class Decoded:
    """What a decoder makes of a file.

    Attributes:
        samples: (H, W) or (H, W, S) uint8.
        layout: of the samples, a key of :data:`TO_RGB`.
        mpp: microns per pixel if the file's metadata state them.
        doubt: one sentence if the samples are hardly what their type says.
    """

    samples: Samples
    layout: str
    mpp: float | None = None
    doubt: str | None = None


def doubt_of_depth(largest: int) -> str | None:
    """One sentence if 16-bit samples reach so little of their range that they are hardly 16 bits of light.

    Args:
        largest: of all samples of colour.
    """
    if largest >= 65536 // 8:
        return None
    return (
        f"its 16-bit samples reach only {largest} of 65535, as where a camera gives fewer bits, and it is seen nearly "
        "black; scale them to 16 bits, or state their bits in the file (MaxSampleValue of TIFF, SignificantBits of "
        "OME-TIFF)."
    )


def to_8_bit(samples: NDArray[np.generic], peak: int) -> Samples:
    """Scale unsigned samples of any shape from 0–``peak`` to 0–255, to the nearest level.

    ``peak`` is the largest value the sample's width can hold, not the largest one present, so two
    images of one camera keep their brightness relative to each other.
    """
    if peak == 255:
        return samples.astype(np.uint8, copy=False)
    return ((samples.astype(np.uint32) * 255 + peak // 2) // peak).astype(np.uint8)


def unit_to_8_bit(samples: NDArray[np.floating]) -> Samples:
    """Scale floating-point samples from 0–1 to 0–255.

    Raises:
        UnsupportedImage: a sample is NaN, infinite, or outside 0–1.
    """
    if not np.isfinite(samples).all():
        raise UnsupportedImage("it holds NaN or infinite values; save it with 8 or 16 bits a channel")
    if samples.size and (samples.min() < 0 or samples.max() > 1):
        raise UnsupportedImage("its floating-point values leave 0–1; save it with 8 or 16 bits a channel")
    return np.rint(samples * 255).astype(np.uint8)


def grey_to_rgb(samples: Samples) -> Samples:
    """(H, W) → (H, W, 3)."""
    return np.repeat(samples[..., None], 3, axis=2)


def rgba_on_white(samples: Samples) -> Samples:
    """(H, W, 4) with straight alpha → (H, W, 3): glass without tissue is white."""
    color, alpha = samples[..., :3].astype(np.uint16), samples[..., 3:].astype(np.uint16)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def premultiplied_on_white(samples: Samples) -> Samples:
    """(H, W, 4) whose colours are multiplied by alpha already → (H, W, 3)."""
    color, alpha = samples[..., :3].astype(np.uint16), samples[..., 3:].astype(np.uint16)
    return np.minimum(color + 255 - alpha, 255).astype(np.uint8)


def cmyk_to_rgb(samples: Samples) -> Samples:
    """(H, W, 4) ink coverage → (H, W, 3), without a colour profile."""
    light = 255 - samples.astype(np.uint16)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


def _grey_alpha(then: Callable[[Samples], Samples]) -> Callable[[Samples], Samples]:
    return lambda samples: then(samples[..., [0, 0, 0, 1]])


# Layout of the samples (Pillow's names; a small a is premultiplied alpha) → conversion.
TO_RGB: dict[str, Callable[[Samples], Samples]] = {
    "L": grey_to_rgb,
    "LA": _grey_alpha(rgba_on_white),
    "La": _grey_alpha(premultiplied_on_white),
    "RGB": np.ascontiguousarray,
    "RGBA": rgba_on_white,
    "RGBa": premultiplied_on_white,
    "CMYK": cmyk_to_rgb,
}
