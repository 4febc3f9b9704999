"""HoVer-Net (Graham et al. 2019): distances to the centre along both axes, separated by a watershed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from cellseg_models_pytorch.postproc.functional.hovernet import post_proc_hovernet
from cellseg_models_pytorch.utils import majority_vote_sequential
from torch import Tensor, nn

from benchmarks.peers import CLASSES, Arrays, Labels, Peer
from benchmarks.peers.targets import class_scores, hover

BRANCHES = {"nucleus": 2, "hover": 2, "classes": 1 + CLASSES}
#: Of the decoders: 3 is the authors' form for PanNuke, 5 the one of the first paper.
KERNEL = 3


class Residual(nn.Module):
    """Units of a pre-activated ResNet-50; the first one strides and has a projection beside it."""

    def __init__(self, inputs: int, width: int, units: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.project = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.units = nn.ModuleList(
            self._unit(inputs if i == 0 else outputs, width, stride if i == 0 else 1, first=i == 0)
            for i in range(units)
        )
        self.last = norm_relu(outputs)

    @staticmethod
    def _unit(inputs: int, width: int, stride: int, first: bool) -> nn.Sequential:
        before: list[nn.Module] = [] if first else [norm_relu(inputs)]  # the block before ends with one
        return nn.Sequential(
            *before,
            nn.Conv2d(inputs, width, 1, bias=False),
            norm_relu(width),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            norm_relu(width),
            nn.Conv2d(width, 4 * width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.project(x)
        for unit in self.units:
            x = shortcut = unit(x) + shortcut
        out: Tensor = self.last(x)
        return out


class Dense(nn.Module):
    """Units that each add 32 channels by a grouped convolution, unpadded."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(
                norm_relu(inputs + 32 * i),
                nn.Conv2d(inputs + 32 * i, 128, 1, bias=False),
                norm_relu(128),
                nn.Conv2d(128, 32, KERNEL, groups=4, bias=False),
            )
            for i in range(units)
        )
        self.last = norm_relu(inputs + 32 * units)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            new = unit(x)
            x = torch.cat([crop(x, new.shape[-1]), new], dim=1)
        out: Tensor = self.last(x)
        return out


class Branch(nn.Module):
    """A decoder of one kind of map; its convolutions are unpadded, so the map is smaller than the image."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(1024, 256, KERNEL, bias=False), Dense(256, 8), nn.Conv2d(512, 512, 1, bias=False)
                ),
                nn.Sequential(
                    nn.Conv2d(512, 128, KERNEL, bias=False), Dense(128, 4), nn.Conv2d(256, 256, 1, bias=False)
                ),
                nn.Conv2d(256, 64, KERNEL, padding=KERNEL // 2, bias=False),
            ]
        )
        self.head = nn.Sequential(norm_relu(64), nn.Conv2d(64, outputs, 1))

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for step, skip in zip(self.steps, skips, strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = step(x + crop(skip, x.shape[-1]))
        out: Tensor = self.head(x)
        return out


class Network(nn.Module):
    """The network; a map of a 256×256 image is 164×164."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, padding=3, bias=False), norm_relu(64))
        self.stages = nn.ModuleList(
            Residual(inputs, width, units, stride)
            for inputs, width, units, stride in ((64, 64, 3, 1), (256, 128, 4, 2), (512, 256, 6, 2), (1024, 512, 3, 2))
        )
        self.bottom = nn.Conv2d(2048, 1024, 1, bias=False)
        self.branches = nn.ModuleDict({name: Branch(outputs) for name, outputs in BRANCHES.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x, skips = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        x = self.bottom(x)
        return {name: branch(x, skips[2::-1]) for name, branch in self.branches.items()}


def norm_relu(width: int) -> nn.Sequential:
    """Batch norm, ReLU."""
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def crop(x: Tensor, side: int) -> Tensor:
    """The middle of a square map."""
    first = (x.shape[-1] - side) // 2
    return x[..., first : first + side, first : first + side]


def activate(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Probabilities of nucleus and classes; the distances as they are."""
    return {
        "nucleus": raw["nucleus"].softmax(dim=1)[:, 1:],
        "hover": raw["hover"],
        "classes": raw["classes"].softmax(dim=1),
    }


def maps(labels: Labels, classes: Labels) -> Arrays:
    """Foreground, distances to the centre, classes."""
    return {
        "nucleus": (labels > 0)[None].astype(np.float32),
        "hover": hover(labels),
        "classes": class_scores(classes, CLASSES),
    }


def finish(found: Arrays) -> Labels:
    """The watershed on the gradients of the distances, then one class a nucleus."""
    foreground = (found["nucleus"][0] >= 0.5).astype(np.int32)
    # The library's map comes first by rows, then by columns.
    instances: Labels = post_proc_hovernet(foreground, found["hover"][::-1]).astype(np.int32)
    majority_vote_sequential(found["classes"].argmax(axis=0).astype(np.int32), instances)
    return instances


def peer() -> Peer:
    """The method."""
    return Peer(
        build=Network,
        activate=activate,
        maps=maps,
        finish=finish,
        outputs=tuple(BRANCHES),
        origin="network from the paper; post-processing of cellseg-models-pytorch",
        difference="the authors' form for PanNuke (3×3 kernels in the decoders); convolutions only are counted",
    )
