"""Is the exported bundle the network that was trained? PyTorch against ONNX Runtime on real tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pnseg_export.precision.feeds import Arrays, grid_of_prompts
from pnseg_runtime.bundle import PROMPT_INPUTS, Manifest
from pnseg_runtime.metrics import panoptic_quality
from pnseg_runtime.pixels import normalise
from pnseg_runtime.prompts import nearest_negatives
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions
from pnseg_runtime.windows import cut, windows
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Prompts, Segmentor

Tile = NDArray[np.uint8]

# Largest difference that a float32 graph may show: points in px, the rest in logits or IoU.
TOLERANCE = {"points": 1e-2, "class_logits": 1e-3, "region_logits": 1e-3, "mask_logits": 1e-2, "iou": 1e-3}


@torch.no_grad()
def tensor_differences(
    sessions: Sessions,
    manifest: Manifest,
    prompter: Prompter,
    segmentor: Segmentor,
    tile: Tile,
    points: NDArray[np.float32],
) -> dict[str, float]:
    """Largest absolute difference of every output between the graphs and the networks.

    Args:
        tile: (H, W, 3) uint8 RGB of at least one window.
        points: (N, 2) point prompts; those in the first window are decoded, with one negative each, and where there
            are none, a grid of prompts.
    """
    window, multiple = manifest.masking.window, manifest.prompting.pad_multiple
    height, width = (side // multiple * multiple for side in tile.shape[:2])
    image = normalise(tile[None, :height, :width], manifest.normalisation)
    expected = prompter(torch.from_numpy(image))._asdict()
    given = sessions.prompter({"image": image})

    inside = points[(points < window).all(axis=1)]
    image = normalise(
        cut(tile, windows(tile.shape[:2], window, manifest.masking.overlap)[:1], window), manifest.normalisation
    )
    prompts = _prompts(inside) if len(inside) else grid_of_prompts(window)
    coords, labels, index = (torch.from_numpy(prompts[name]) for name in PROMPT_INPUTS)
    output = segmentor(torch.from_numpy(image), Prompts(coords, labels, index))
    expected |= {"mask_logits": output.mask_logits, "iou": output.iou}
    given |= sessions.decoder(sessions.encoder({"image": image}) | prompts)
    return {name: float(np.abs(given[name] - tensor.numpy()).max()) for name, tensor in expected.items()}


def _prompts(points: NDArray[np.float32]) -> Arrays:
    coords, labels = nearest_negatives(points, 1)
    return {"point_coords": coords, "point_labels": labels, "image_index": np.zeros(len(coords), np.int64)}


def agreement(reference: Segmenter, candidate: Segmenter, tile: Tile) -> dict[str, float]:
    """Numbers of nuclei, and the PQ of the candidate's label map against the reference's (1 is identical)."""
    expected, given = reference.predict(tile), candidate.predict(tile)
    quality = panoptic_quality(expected.instance_map(), given.instance_map())
    return {"nuclei_reference": len(expected), "nuclei": len(given), "pq": float(quality["pq"])}


def largest(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest value of every name over several rows; NaN where one is NaN."""
    return {
        name: float(np.max([row[name] for row in rows if name in row]))
        for name in {name: None for row in rows for name in row}
    }
