"""Networks by formula that find dark spots in real images, and see no farther than a few pixels.

What they find in a pixel's surroundings is the same bit for bit wherever a view or window begins, so
that a slide done in parts must give exactly what it gives in one piece.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from pnseg_runtime.bundle import Bundle, Normalisation
from pnseg_runtime.hashes import sha256_of
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions
from pnseg_runtime.slide import Model, SlideOptions, SlideResult, run_slide

SPACING = 8
BLUR = 9  # px, side of the box over which darkness is meant
DARK = 120  # mean grey of a spot's middle
REACH = 12.0  # px around a point that a mask may cover
NORMALISATION = Normalisation()

Network = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]


def write_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle whose graphs are no networks, with a manifest as any other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "none.onnx").write_bytes(b"none")
    digest = hashlib.sha256(b"none").hexdigest()
    graph = {"file": "none.onnx", "sha256": digest, "bytes": 4, "inputs": {}, "outputs": {}}
    prompting = {"anchor_spacing": SPACING, "levels": 1, "nms_radius": 9, "region_filter": True, "negatives": 0}
    manifest = {
        "model": "dark spots",
        "mpp": 0.25,
        "classes": {"names": ["dark", "darker"], "colors": [(255, 200, 0), (0, 120, 255)]},
        "prompting": prompting | changes.pop("prompting", {}),
        "masking": changes.pop("masking", {}),
        "graphs": {"prompter": graph, "encoder": graph, "decoder": graph},
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def pixels_of(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Undo the normalisation: (B, H, W, 3)."""
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (NORMALISATION.mean, NORMALISATION.std))
    return np.rint((image * std + mean) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def blurred(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(H, W) sum of grey over a box: whole numbers, so that it does not matter where a sum began."""
    grey = rgb.astype(np.int32).sum(axis=2).astype(np.float64)
    return np.rint(cv2.boxFilter(grey, cv2.CV_64F, (BLUR, BLUR), normalize=False)).astype(np.int64)


def prompter(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    points, logits, regions = [], [], []
    for rgb in pixels_of(inputs["image"]):
        dark = blurred(rgb)
        height, width = dark.shape
        rows, columns = height // SPACING, width // SPACING
        cells = dark.reshape(rows, SPACING, columns, SPACING).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
        darkest = cells.argmin(axis=1)
        y, x = np.divmod(np.arange(rows * columns), columns)
        points.append(np.stack([x * SPACING + darkest % SPACING, y * SPACING + darkest // SPACING], axis=1))
        # In eighths, so that every score is one of a few and ties are common.
        certain = (DARK - cells.min(axis=1) // (3 * BLUR * BLUR)).astype(np.float32) / 8
        around = minimum_filter(dark, 2 * SPACING + 1, mode="nearest")
        lowest = (dark == around).reshape(rows, SPACING, columns, SPACING).transpose(0, 2, 1, 3)
        certain[~lowest.reshape(rows * columns, -1).any(axis=1)] = -8
        logits.append(np.stack([certain, certain - 4, np.zeros_like(certain)], axis=1))
        regions.append((DARK * 3 * BLUR * BLUR - dark)[None].astype(np.float32))
    return {
        "points": np.stack(points).astype(np.float32),
        "class_logits": np.stack(logits).astype(np.float32),
        "region_logits": np.stack(regions),
    }


def encoder(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    images = pixels_of(inputs["image"]).astype(np.float32).sum(axis=3)
    count, height, width = images.shape
    return {"grey": images.reshape(count, height // 4, 4, width // 4, 4).sum(axis=(2, 4))}


def decoder(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    grey = inputs["grey"][inputs["image_index"]]
    centres = np.arange(grey.shape[-1]) * 4 + 1.5
    x, y = inputs["point_coords"][:, 0].T
    distance = np.hypot(centres[None, None, :] - x[:, None, None], centres[None, :, None] - y[:, None, None])
    logits = np.minimum((DARK + 30) * 48 - grey, (REACH - distance) * 48)
    area = (logits > 0).sum(axis=(1, 2))
    return {"mask_logits": logits.astype(np.float32), "iou": (area / 64).astype(np.float32)}


def telling_decoder(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The decoder above, which tells classes too: of small masks the first, of large ones the second."""
    raw = decoder(inputs)
    large = raw["iou"] > 0.3
    return raw | {"class_logits": np.stack([~large, large], axis=1).astype(np.float32)}


def local_segmenter(
    bundle: Path,
    options: Options | None = None,
    pause: float = 0.0,
    backend: str = "",
    decoder: Network = decoder,
) -> Segmenter:
    """A segmenter with the networks above; ``pause`` s are slept in every view, ``backend`` is what it says it is."""

    def slow(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        time.sleep(pause)
        return prompter(inputs)

    return Segmenter(Bundle.open(bundle), options, sessions=Sessions(slow, encoder, decoder, backend))


def run_local(
    slide: Path,
    out: Path,
    bundle: Path,
    kinds: tuple[str, ...] = ("geojson", "parquet"),
    options: SlideOptions | None = None,
    pause: float = 0.0,
    decoder: Network = decoder,
    **more: Any,
) -> SlideResult:
    """``pnseg slide`` with the networks above."""
    options = options or SlideOptions(mpp=0.25, tissue=False, core=192, margin=192)
    model = Model(str(bundle), Options())
    segmenter = local_segmenter(bundle, pause=pause, decoder=decoder)
    return run_slide(slide, out, model, options, kinds, segmenter=segmenter, **more)


def hashes(result: SlideResult) -> dict[str, str]:
    """File → hex SHA-256 of the outputs; a folder stands for its files."""
    files = [
        file for path in result.outputs.values() for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    ]
    return {str(file.relative_to(result.run.parent)): sha256_of(file) for file in files if file.is_file()}
