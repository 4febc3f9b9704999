"""CPP-Net (Chen et al. 2023): StarDist whose rays are refined by what other pixels along them say."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from cellseg_models_pytorch.utils import majority_vote_sequential
from torch import Tensor, nn

from benchmarks.peers import CLASSES, Arrays, Labels, Peer
from benchmarks.peers.stardist import activate, maps, stars
from benchmarks.peers.unet import RAYS, StarNetwork

#: Where along a ray other pixels are asked, as parts of its length.
SAMPLES = tuple((i + 1) / 6 for i in range(6))


class ContextNetwork(StarNetwork):
    """StarDist's network with the context enhancement of the rays."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.confidence = nn.Conv2d(256, RAYS, 1)
        self.weigh = nn.Conv2d(1 + len(SAMPLES), 1 + len(SAMPLES), 1)
        angles = torch.arange(RAYS) * (2 * math.pi / RAYS)
        self.register_buffer("directions", torch.stack([angles.cos(), angles.sin()], dim=-1), persistent=False)

    def refine(self, shape: Tensor, rays: Tensor) -> Tensor:
        """Each ray as the weighted mean of its own length and those that pixels on its way imply."""
        confidence = self.confidence(shape)
        lengths, weights = [rays], [confidence]
        for part in SAMPLES:
            reach = (rays - 1) * part
            sampled = self.along(torch.stack([rays, confidence], dim=2), reach)
            lengths.append(sampled[:, :, 0] + reach)
            weights.append(sampled[:, :, 1])
        batch, _, height, width = rays.shape
        stacked = torch.stack(weights, dim=2).flatten(0, 1)
        mixed = self.weigh(stacked).view(batch, RAYS, -1, height, width).softmax(dim=2)
        return (torch.stack(lengths, dim=2) * mixed).sum(dim=2)

    def along(self, values: Tensor, reach: Tensor) -> Tensor:
        """Values (B, rays, C, H, W) of the pixel that lies ``reach`` (B, rays, H, W) px along each ray."""
        batch, _, _, height, width = values.shape
        y, x = torch.meshgrid(
            torch.arange(height, device=reach.device), torch.arange(width, device=reach.device), indexing="ij"
        )
        directions: Tensor = self.directions  # type: ignore[assignment]
        steps = reach[..., None] * directions[None, :, None, None]
        places = 2 * (torch.stack([x, y], dim=-1) + steps) / reach.new_tensor([width - 1, height - 1]) - 1
        sampled = F.grid_sample(values.flatten(0, 1), places.flatten(0, 1), mode="nearest", align_corners=False)
        return sampled.view(batch, RAYS, -1, height, width)


def finish(found: Arrays) -> Labels:
    """StarDist's post-processing; then pixels that the polygons missed follow their rays' mean offset to a nucleus."""
    instances = stars(found)
    classes = found["classes"].argmax(axis=0)
    majority_vote_sequential(classes.astype(np.int32), instances)
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    dx, dy = (np.rint((found["rays"] * wave(angles)[:, None, None]).mean(axis=0)) for wave in (np.cos, np.sin))
    height, width = instances.shape
    while True:
        y, x = np.nonzero((instances == 0) & (classes > 0))
        target_y = np.clip(y + dy[y, x], 0, height - 1).astype(np.intp)
        target_x = np.clip(x + dx[y, x], 0, width - 1).astype(np.intp)
        reached = instances[target_y, target_x]
        if not reached.any():
            return instances
        instances[y, x] = reached


def peer() -> Peer:
    """The method."""
    return Peer(
        build=lambda: ContextNetwork(CLASSES),
        activate=activate,
        maps=maps,
        finish=finish,
        outputs=("rays", "probability", "classes"),
        origin="network and refinement of pixels from the paper; polygon NMS of cellseg-models-pytorch",
        difference="convolutions only are counted, not norms, sampling and resizing",
    )
