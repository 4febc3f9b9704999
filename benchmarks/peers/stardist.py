"""StarDist (Schmidt et al. 2018) as it is compared on PanNuke: with a ResNet-50, 32 rays and a decoder of classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cellseg_models_pytorch.postproc.functional.stardist.stardist import post_proc_stardist
from cellseg_models_pytorch.utils import majority_vote_sequential
from torch import Tensor

from benchmarks.peers import CLASSES, Arrays, Labels, Peer
from benchmarks.peers.targets import class_scores, distance, star_rays
from benchmarks.peers.unet import RAYS, StarNetwork


def activate(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Positive rays, probabilities."""
    return {
        "rays": raw["rays"].relu(),
        "probability": raw["probability"].sigmoid(),
        "classes": raw["classes"].softmax(dim=1),
    }


def maps(labels: Labels, classes: Labels) -> Arrays:
    """Distances to the outline along every ray, distance from the background, classes."""
    return {
        "rays": star_rays(labels, RAYS),
        "probability": distance(labels)[None],
        "classes": class_scores(classes, CLASSES),
    }


def finish(found: Arrays) -> Labels:
    """Polygon NMS and painting, then one class a nucleus."""
    instances = stars(found)
    majority_vote_sequential(found["classes"].argmax(axis=0).astype(np.int32), instances)
    return instances


def stars(found: Arrays) -> Labels:
    """Polygon NMS and painting."""
    if found["probability"].max() <= 0:  # the library divides by the largest probability
        return np.zeros(found["probability"].shape[1:], np.int32)
    labels: Labels = post_proc_stardist(found["probability"][0], found["rays"]).astype(np.int32)
    return labels


def peer() -> Peer:
    """The method."""
    return Peer(
        build=lambda: StarNetwork(CLASSES),
        activate=activate,
        maps=maps,
        finish=finish,
        outputs=("rays", "probability", "classes"),
        origin="network from the papers of StarDist and CPP-Net; post-processing of cellseg-models-pytorch",
        difference=(
            "the authors do not publish this variant; built on CPP-Net's "
            "description of it, convolutions only are counted"
        ),
    )
