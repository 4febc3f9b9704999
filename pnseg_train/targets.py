"""What the networks are asked to give for a crop: centroids, prompts, masks, votes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pnseg_train.models.segmentor import Prompts


class Pixels(NamedTuple):
    """The foreground pixels of a label map, sorted by nucleus.

    Attributes:
        xy: (F, 2) float32 coordinates, px.
        first: (N,) index of each nucleus's first pixel.
        area: (N,) pixels of each nucleus.
    """

    xy: Tensor
    first: Tensor
    area: Tensor


def pixels_by_nucleus(instances: Tensor) -> Pixels:
    """Sort the foreground of (H, W) instances with ids 1..N."""
    flat = instances.flatten()
    order = torch.argsort(flat, stable=True)
    order = order[int((flat == 0).sum()) :]
    count = torch.bincount(flat)[1:]
    width = instances.shape[1]
    xy = torch.stack([order % width, order // width], dim=1).float()
    return Pixels(xy, torch.cumsum(count, 0) - count, count)


def centroids(pixels: Pixels) -> Tensor:
    """(N, 2) float32 mean (x, y) of each nucleus, px."""
    owner = torch.repeat_interleave(torch.arange(len(pixels.area)), pixels.area)
    # The sum of millions of coordinates has more digits than float32.
    total = torch.zeros(len(pixels.area), 2, dtype=torch.float64).index_add_(0, owner, pixels.xy.double())
    return (total / pixels.area[:, None]).float()


def nucleus_classes(pixels: Pixels, classes: Tensor) -> Tensor:
    """(N,) int64 class of each nucleus, from 0 on: what a class map (H, W) of 1, 2, … says at its first pixel."""
    first = pixels.xy[pixels.first].long()
    return classes[first[:, 1], first[:, 0]].long() - 1


def random_points(pixels: Pixels, averaged: int = 1) -> Tensor:
    """(N, 2) a random point of every nucleus: the rounded mean of ``averaged`` of its pixels.

    One gives any foreground pixel, as in the paper; more give points about the centroid, where a
    prompter puts them.
    """
    picked = pixels.first[:, None] + (torch.rand(len(pixels.area), averaged) * pixels.area[:, None]).long()
    return pixels.xy[picked].mean(dim=1).round()


def random_prompts(
    pixels: Pixels, image: int, limit: int, negatives: int, drop: float, central: float
) -> tuple[Prompts, Tensor]:
    """Training prompts of one crop, and which nuclei they stand on.

    Args:
        image: the crop's place in its batch.
        limit: Z, at most this many nuclei.
        negatives: K, the nearest of the other nuclei's random points.
        drop: share of the prompts that get none.
        central: share of the points drawn near the centroid.

    Returns:
        the prompts, and (P,) nuclei, counted from 0.
    """
    number = len(pixels.area)
    near = torch.rand(number, 1) < central
    points = torch.where(near, random_points(pixels, averaged=6), random_points(pixels))
    chosen = torch.randperm(number)[:limit]
    coords = torch.zeros(len(chosen), 1 + negatives, 2)
    labels = torch.full((len(chosen), 1 + negatives), -1.0)
    coords[:, 0], labels[:, 0] = points[chosen], 1.0
    available = min(negatives, max(number - 1, 0))
    if available:
        distance = torch.cdist(points[chosen], points)
        distance[torch.arange(len(chosen)), chosen] = torch.inf
        nearest = distance.topk(available, largest=False).indices
        kept = torch.rand(len(chosen), 1) >= drop
        coords[:, 1 : 1 + available] = points[nearest] * kept[..., None]
        labels[:, 1 : 1 + available] = torch.where(kept, 0.0, -1.0)
    return Prompts(coords, labels, torch.full((len(chosen),), image)), chosen


def mask_targets(instances: Tensor, prompts: Prompts, ids: Tensor, side: int) -> Tensor:
    """(P, side, side) float: the share of each cell that is the prompt's nucleus.

    Args:
        instances: (B, H, W) ids of each crop.
        ids: (P,) the nucleus of each prompt.
        side: of the masks that are compared, a divisor of H.
    """
    masks = (instances[prompts.image_index] == ids[:, None, None]).float()
    return masks if side == masks.shape[-1] else F.avg_pool2d(masks, masks.shape[-1] // side)


def contacts(instances: Tensor, reach: int = 3) -> Tensor:
    """(B, H, W) float: 1 where nuclei with different ids lie within ``reach`` px, in and between them."""
    ids = instances.float()[:, None]
    none = float(instances.max()) + 1.0
    highest = _largest_near(ids, reach)
    lowest = -_largest_near(-torch.where(ids > 0, ids, none), reach)
    return ((highest > 0) & (lowest < highest)).float()[:, 0]


def _largest_near(x: Tensor, reach: int) -> Tensor:
    # Rows, then columns: a square's maximum in two strokes.
    side = 2 * reach + 1
    return F.max_pool2d(F.max_pool2d(x, (side, 1), 1, (reach, 0)), (1, side), 1, (0, reach))


class VoteTargets(NamedTuple):
    """Dense targets of nano at stride 2 for B crops.

    Attributes:
        centroid: (B, 2, h, w) centroid (x, y) of each cell's nucleus, px; 0 outside.
        owned: (B, h, w) float, 1 where a cell belongs to a nucleus.
        inside: (B, h, w) float, the share of the cell that is nucleus.
    """

    centroid: Tensor
    owned: Tensor
    inside: Tensor


def vote_targets(instances: Tensor, places: list[Tensor], stride: int = 2) -> VoteTargets:
    """Targets from instances (B, H, W), ids 1..N of each crop, and B tensors (N, 2) of centroids, px."""
    inside = F.avg_pool2d((instances > 0).float()[:, None], stride)[:, 0]
    cells = instances[:, ::stride, ::stride]
    maps = [torch.cat([torch.zeros(1, 2), xy])[cell].permute(2, 0, 1) for cell, xy in zip(cells, places, strict=True)]
    return VoteTargets(torch.stack(maps), (cells > 0).float(), inside)


def label_centroids(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """(N, 2) mean (x, y) of every nucleus of a label map with any ids, px."""
    _, ids = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    instances = torch.from_numpy(ids[:-1].reshape(labels.shape))
    return centroids(pixels_by_nucleus(instances)).numpy()
