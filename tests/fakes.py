"""Networks that need no training: a pure colour is a disc's centre, and its mask is that disc.

On a black image a disc's centre pixel is painted with the class in red (class + 1), its radius in
green and its confidence in blue. The fake prompter finds such pixels in the normalised image it is
given; the fake decoder looks up the radius under the positive prompt in the window that it is given.
Nothing but the documented tensors connects them, so a point, window or index that goes astray shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import Bundle, Manifest
from pnseg_runtime.sessions import Sessions

SPACING = 8
CLASSES = ("round", "other")


def fake_bundle(**changes: dict[str, Any]) -> Bundle:
    """A bundle without files; ``prompting`` and ``masking`` update the manifest's values."""
    graph = {"file": "none", "sha256": "", "bytes": 0, "inputs": {}, "outputs": {}}
    prompting = {"anchor_spacing": SPACING, "levels": 1, "nms_radius": 4, "region_filter": True, "negatives": 1}
    return Bundle(
        Path(),
        Manifest.model_validate(
            {
                "model": "fake",
                "mpp": 0.25,
                "classes": {"names": CLASSES, "colors": [(255, 0, 0), (0, 0, 255)]},
                "prompting": prompting | changes.get("prompting", {}),
                "masking": changes.get("masking", {}),
                "graphs": {"prompter": graph, "encoder": graph, "decoder": graph},
            }
        ),
    )


def marked_image(shape: tuple[int, int], discs: list[tuple[int, int, int, int, int]]) -> NDArray[np.uint8]:
    """Black with one marked pixel a disc: (x, y, radius px, class, confidence 0–255)."""
    image = np.zeros((*shape, 3), np.uint8)
    for x, y, radius, kind, confidence in discs:
        image[y, x] = (kind + 1, radius, confidence)
    return image


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> NDArray[np.bool_]:
    """(H, W) bool: where :func:`FakeNetworks.decoder` upsampled is positive, up to its resolution."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y) < radius


class FakeNetworks:
    """The three networks as functions of arrays, and a record of what they were given."""

    def __init__(self, bundle: Bundle, mask_size: int = 64) -> None:
        self.normalisation = bundle.manifest.normalisation
        self.mask_size = mask_size
        self.prompter_shapes: list[tuple[int, ...]] = []
        self.window_counts: list[int] = []
        self.prompt_counts: list[tuple[int, int]] = []

    def sessions(self) -> Sessions:
        return Sessions(self.prompter, self.encoder, self.decoder)

    def prompter(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        pixels = self._pixels(inputs["image"])
        self.prompter_shapes.append(inputs["image"].shape)
        count, _, height, width = pixels.shape
        rows, columns = height // SPACING, width // SPACING
        assert (rows * SPACING, columns * SPACING) == (height, width)
        points = np.zeros((count, rows * columns, 2), np.float32)
        logits = np.zeros((count, rows * columns, len(CLASSES) + 1), np.float32)
        logits[..., -1] = 20
        # From the end, so that of two marks near one anchor the image's own wins over a mirrored one.
        for image, y, x in np.argwhere(pixels[:, 0] > 0)[::-1]:
            kind, _, confidence = pixels[image, :, y, x]
            anchor = y // SPACING * columns + x // SPACING
            points[image, anchor] = x, y
            logits[image, anchor, kind - 1] = 20 + confidence / 16
        region = np.full((count, 1, height, width), 1, np.float32)
        return {"points": points, "class_logits": logits, "region_logits": region}

    def encoder(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.window_counts.append(len(inputs["image"]))
        return {"embedding": self._pixels(inputs["image"])}

    def decoder(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        coords, labels, windows = inputs["point_coords"], inputs["point_labels"], inputs["image_index"]
        assert coords.dtype == labels.dtype == np.float32
        assert windows.dtype == np.int64
        assert (labels[:, 0] == 1).all()
        assert coords.shape[:2] == labels.shape
        self.prompt_counts.append(labels.shape)
        embedding = inputs["embedding"]
        factor = embedding.shape[-1] // self.mask_size
        centres = (np.arange(self.mask_size) + 0.5) * factor - 0.5
        x, y = coords[:, 0].T
        _, radius, confidence = embedding[windows, :, y.astype(int), x.astype(int)].T
        distance = np.hypot(centres[None, None, :] - x[:, None, None], centres[None, :, None] - y[:, None, None])
        # A negative prompt makes the network a little surer of the same mask.
        iou = confidence / 512 + 0.25 * (labels == 0).any(axis=1)
        return {
            "mask_logits": (radius[:, None, None] - distance).astype(np.float32),
            "iou": iou.astype(np.float32),
        }

    def _pixels(self, image: NDArray[np.float32]) -> NDArray[np.int64]:
        """Undo the normalisation: (B, 3, H, W) of 0–255."""
        mean, std = (np.array(v).reshape(3, 1, 1) for v in (self.normalisation.mean, self.normalisation.std))
        return np.rint((image * std + mean) * 255).astype(np.int64)
