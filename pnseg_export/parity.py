"""Is the exported bundle the network that was trained? PyTorch against ONNX Runtime on real tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pnseg_export.precision.feeds import Arrays, grid_of_prompts
from pnseg_runtime.bundle import PROMPT_INPUTS, Manifest
from pnseg_runtime.metrics import panoptic_quality
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.pixels import normalise, padded_shape
from pnseg_runtime.prompts import nearest_negatives
from pnseg_runtime.sessions import Sessions
from pnseg_runtime.windows import cut, mirror, windows
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Prompts, Segmentor

Tile = NDArray[np.uint8]

# Largest difference that a float32 graph may show: points in px, the rest in logits or IoU.
TOLERANCE = {"points": 1e-2, "class_logits": 1e-3, "region_logits": 1e-3, "mask_logits": 1e-2, "iou": 1e-3}
# Least PQ of the graphs' nuclei against PyTorch's, over all tiles: a last bit may decide between two that are alike.
LEAST_PQ = 0.98


@torch.no_grad()
def tensor_differences(
    sessions: Sessions,
    manifest: Manifest,
    prompter: Prompter,
    segmentor: Segmentor,
    tile: Tile,
    points: NDArray[np.float32],
) -> dict[str, float]:
    """Largest absolute difference of every output between the graphs and the networks; NaN where one is not finite.

    Encoder and decoder are called with one window and with two, each with prompts of its own.

    Args:
        tile: (H, W, 3) uint8 RGB of any size; smaller than a window, or than a multiple of the prompter's, it is
            mirrored.
        points: (N, 2) point prompts; those in the first window are decoded, with one negative each, and where there
            are none, a grid of prompts. The second window is the first in a mirror.
    """
    shape = padded_shape((tile.shape[0], tile.shape[1]), manifest.prompting.pad_multiple)
    image = normalise(mirror(tile, shape)[None], manifest.normalisation)
    rows = [_differences(prompter(torch.from_numpy(image))._asdict(), sessions.prompter({"image": image}))]

    window = manifest.masking.window
    first = cut(tile, windows(tile.shape[:2], window, manifest.masking.overlap)[:1], window)
    prompts = _prompts(points[(points < window).all(axis=1)], window)
    both = np.concatenate([first, first[:, ::-1]])
    for pixels, given in ((first, prompts), (both, _mirrored_too(prompts, window))):
        image = normalise(pixels, manifest.normalisation)
        coords, labels, index = (torch.from_numpy(given[name]) for name in PROMPT_INPUTS)
        output = segmentor(torch.from_numpy(image), Prompts(coords, labels, index))
        expected = {"mask_logits": output.mask_logits, "iou": output.iou}
        rows.append(_differences(expected, sessions.decoder(sessions.encoder({"image": image}) | given)))
    return largest(rows)


def _differences(expected: Mapping[str, torch.Tensor], given: Arrays) -> dict[str, float]:
    # Infinity less infinity is not a number either.
    return {name: float(np.abs(given[name] - tensor.numpy()).max()) for name, tensor in expected.items()}


def _prompts(inside: NDArray[np.float32], window: int) -> Arrays:
    if not len(inside):
        return grid_of_prompts(window)
    coords, labels = nearest_negatives(inside, 1)
    return {"point_coords": coords, "point_labels": labels, "image_index": np.zeros(len(coords), np.int64)}


def _mirrored_too(prompts: Arrays, window: int) -> Arrays:
    # The prompts of a window, and behind them those of the same window upside down.
    below = np.array([0, window - 1], np.float32) + np.array([1, -1], np.float32) * prompts["point_coords"]
    return {
        "point_coords": np.concatenate([prompts["point_coords"], below]),
        "point_labels": np.concatenate([prompts["point_labels"]] * 2),
        "image_index": np.concatenate([prompts["image_index"], prompts["image_index"] + 1]),
    }


def agreement(expected: Nuclei, given: Nuclei) -> dict[str, float]:
    """Numbers of nuclei, and the PQ of one label map against the other (1 is identical)."""
    quality = panoptic_quality(expected.instance_map(), given.instance_map())
    return {"nuclei_reference": len(expected), "nuclei": len(given), "pq": float(quality["pq"])}


def overall_pq(rows: Sequence[dict[str, float]]) -> float:
    """PQ over the nuclei of several tiles, each of which :func:`agreement` measured; 1 where there are none."""
    counts = [row["nuclei_reference"] + row["nuclei"] for row in rows]
    return float(np.average([row["pq"] for row in rows], weights=counts)) if sum(counts) else 1.0


def largest(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest value of every name over several rows; NaN where one is NaN."""
    return {
        name: float(np.max([row[name] for row in rows if name in row]))
        for name in {name: None for row in rows for name in row}
    }
