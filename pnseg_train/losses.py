"""Losses of the prompter (paper Eq. 4) and of the segmentor (Eq. 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pnseg_train.matching import match_points
from pnseg_train.models.prompter import PrompterOutput
from pnseg_train.targets import VoteTargets


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Binary focal loss without class weights, mean over all elements, each times its ``weight``."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # exp(-entropy) is the probability given to the right answer.
    loss = (1.0 - torch.exp(-entropy)) ** gamma * entropy
    return (loss if weight is None else loss * weight).mean()


def class_focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Multi-class focal loss of (P, C) logits and (P,) classes, mean over the prompts."""
    entropy = F.cross_entropy(logits.float(), target, reduction="none")
    return ((1.0 - torch.exp(-entropy)) ** gamma * entropy).mean()


def dice_loss(
    probability: Tensor, target: Tensor, each: bool = False, smooth: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Soft Dice loss of masks (P, H, W): over all pixels of the batch together, or of ``each`` mask.

    ``weight`` (P, H, W) says how much a pixel counts.
    """
    axes = (1, 2) if each else (0, 1, 2)
    if weight is not None:
        probability, target = probability * weight, target * weight
        overlap = (probability * target / weight).sum(axes)
    else:
        overlap = (probability * target).sum(axes)
    total = probability.sum(axes) + target.sum(axes)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean()


def soft_iou(probability: Tensor, target: Tensor) -> Tensor:
    """IoU of soft masks (P, H, W) with binary ones: (P,)."""
    overlap = (probability * target).sum((1, 2))
    return overlap / (probability.sum((1, 2)) + target.sum((1, 2)) - overlap).clamp_min(1e-6)


def prompter_losses(
    output: PrompterOutput,
    centroids: list[Tensor],
    classes: list[Tensor],
    region: Tensor,
    background_weight: float,
    point_weight: float = 5e-3,
    region_weight: float = 1.0,
) -> dict[str, Tensor]:
    """The terms of Eq. 4, already weighted.

    Args:
        output: raw outputs for B images.
        centroids: B tensors (N, 2), px.
        classes: B tensors (N,) int64.
        region: (B, 1, H, W) float, 1 where a nucleus is.
        background_weight: β, the weight of an anchor without a nucleus.
    """
    batch, anchors, width = output.class_logits.shape
    background = width - 1
    target = torch.full((batch, anchors), background, dtype=torch.int64, device=region.device)
    error = output.points.sum() * 0.0
    for index, (places, kinds) in enumerate(zip(centroids, classes, strict=True)):
        rows, columns = match_points(output.points[index], output.class_logits[index], places, kinds)
        target[index, rows] = kinds[columns]
        error = error + (output.points[index, rows] - places[columns]).square().sum()
    weights = torch.ones(width, device=region.device)
    weights[background] = background_weight
    nuclei = max(sum(len(places) for places in centroids), 1)
    return {
        "class": F.cross_entropy(output.class_logits.flatten(0, 1), target.flatten(), weight=weights),
        "point": point_weight * error / nuclei,
        "region": region_weight * focal_loss(output.region_logits, region),
    }


def disagreement(one: PrompterOutput, other: PrompterOutput, point_weight: float, region_weight: float) -> Tensor:
    """How far a prompter's outputs on two files of the same images are apart; each learns from the other.

    Not of the paper; the weights are those of :func:`prompter_losses`.
    """
    there = _departure(one, other, point_weight, region_weight)
    back = _departure(other, one, point_weight, region_weight)
    return (there + back) / 2


def _departure(output: PrompterOutput, wanted: PrompterOutput, point_weight: float, region_weight: float) -> Tensor:
    # Of what is wanted, which does not move: divergence of the classes, squared distance of the points, each anchor's
    # as much as it is a nucleus, and divergence of the region map.
    classes = wanted.class_logits.detach().float().softmax(dim=-1)
    nucleus = 1.0 - classes[..., -1]
    divergence = F.kl_div(output.class_logits.float().log_softmax(dim=-1), classes, reduction="none").sum(dim=-1)
    apart = (output.points - wanted.points.detach()).square().sum(dim=-1)
    sure = wanted.region_logits.detach().float()
    inside = sure.sigmoid()
    # Both of logits: of probabilities, CUDA refuses the cross-entropy under autocast.
    region = F.binary_cross_entropy_with_logits(output.region_logits.float(), inside)
    region = region - F.binary_cross_entropy_with_logits(sure, inside)
    anchors = (divergence + point_weight * apart * nucleus).sum() / nucleus.sum().clamp_min(1.0)
    return anchors + region_weight * region


def segmentor_losses(
    logits: Tensor,
    iou: Tensor,
    target: Tensor,
    dice_each: bool,
    focal_weight: float = 20.0,
    weight: Tensor | None = None,
    dice_weight: float = 1.0,
) -> dict[str, Tensor]:
    """The terms of Eq. 2, already weighted.

    Args:
        logits: (P, H, W) mask logits.
        iou: (P,) predicted IoU.
        target: (P, H, W) float, the share of each pixel that is the nucleus.
        dice_each: Dice of each mask, so that small nuclei count as much as large ones, instead of
            Dice over the batch as the reference implementation has it.
        focal_weight: of the focal loss; 20 in the paper, and 1 in the published code, which swaps the two.
        weight: (P, H, W) how much each pixel counts; None for all alike.
        dice_weight: of the Dice loss; 1 in the paper, and 20 in the published code.
    """
    probability = logits.sigmoid()
    return {
        "focal": focal_weight * focal_loss(logits, target, weight=weight),
        "dice": dice_weight * dice_loss(probability, target, each=dice_each, weight=weight),
        "iou": F.mse_loss(iou, soft_iou(probability, target).detach()),
    }


def vote_losses(votes: Tensor, region_logits: Tensor, targets: VoteTargets) -> dict[str, Tensor]:
    """Supervision of nano's dense outputs.

    Args:
        votes: (B, 2, h, w) voted centroids, px.
        region_logits: (B, h, w).
    """
    error = F.smooth_l1_loss(votes / 8.0, targets.centroid / 8.0, reduction="none", beta=0.25).sum(1)
    return {
        "vote": (error * targets.owned).sum() / targets.owned.sum().clamp_min(1.0),
        "region": F.binary_cross_entropy_with_logits(region_logits, targets.inside),
    }
