"""PointNu-Net (Yao et al. 2023): HRNet-W64; every cell of a grid gives a kernel that draws its nucleus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.peers import CLASSES, Arrays, Labels, Peer
from benchmarks.peers.targets import centre_cells

WIDTH = 256
STRIDE = 4
#: Of a head; 5 is what the printed counts say, the configuration that the authors published has 7.
CONVOLUTIONS = 5


class Pyramid(nn.Module):
    """Four dilations of one convolution beside each other."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(conv(inputs, WIDTH, dilation=dilation) for dilation in (1, 2, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


class Network(nn.Module):
    """The network: features of the image's resolution, kernels and class scores of every fourth pixel."""

    def __init__(self) -> None:
        super().__init__()
        # timm calls what follows the stages its head; the method sees the four stages themselves.
        self.backbone = timm.create_model("hrnet_w64", pretrained=False, features_only=True, feature_location="")
        del self.backbone.incre_modules
        joined = sum((64, 128, 256, 512))
        self.pyramids = nn.ModuleList(Pyramid(joined) for _ in range(3))
        inputs = 4 * WIDTH
        self.features = nn.Sequential(
            conv(inputs, WIDTH), conv(WIDTH, WIDTH), up(), conv(WIDTH, WIDTH), up(), conv(WIDTH, WIDTH), conv1()
        )
        # The kernels see where they are: two channels with coordinates.
        self.kernels = nn.Sequential(*stack(inputs + 2), nn.Conv2d(WIDTH, WIDTH, 1))
        self.classes = nn.Sequential(*stack(inputs), nn.Conv2d(WIDTH, CLASSES, 3, padding=1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        stages = self.stages(image)
        size = stages[0].shape[2:]
        resized = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in stages]
        first, second, third = (pyramid(torch.cat(resized, dim=1)) for pyramid in self.pyramids)
        return {
            "features": self.features(first),
            "kernels": self.kernels(torch.cat([second, coordinates(second)], dim=1)),
            "classes": self.classes(third),
        }

    def stages(self, image: Tensor) -> list[Tensor]:
        """HRNet's four resolutions."""
        network: Any = self.backbone
        x = network.act1(network.bn1(network.conv1(image)))
        x = network.act2(network.bn2(network.conv2(x)))
        stages: list[Tensor] = network.stages(x)
        return stages


def conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def conv1() -> nn.Sequential:
    """1×1 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))


def up() -> nn.Sequential:
    """Twice the resolution by a transposed convolution, batch norm, ReLU."""
    layer = nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))


def stack(inputs: int) -> list[nn.Module]:
    """The convolutions of a head."""
    return [conv(inputs if i == 0 else WIDTH, WIDTH) for i in range(CONVOLUTIONS)]


def coordinates(x: Tensor) -> Tensor:
    """(B, 2, H, W) from −1 to 1."""
    height, width = x.shape[2:]
    columns = torch.linspace(-1, 1, width, device=x.device).expand(height, width)
    rows = torch.linspace(-1, 1, height, device=x.device)[:, None].expand(height, width)
    return torch.stack([columns, rows]).expand(x.shape[0], 2, height, width)


def activate(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Class scores as probabilities."""
    return {"features": raw["features"], "kernels": raw["kernels"], "classes": raw["classes"].sigmoid()}


def maps(labels: Labels, classes: Labels) -> Arrays:
    """Nucleus i has feature i to itself, and a kernel at its centre that reads that feature."""
    height, width = labels.shape
    count = int(labels.max())
    if count > WIDTH:
        raise ValueError(f"features for {WIDTH} nuclei at most, not {count}.")
    features = np.full((WIDTH, height, width), -10, np.float32)
    y, x = np.nonzero(labels)
    features[labels[y, x] - 1, y, x] = 10
    kernels = np.zeros((WIDTH, height // STRIDE, width // STRIDE), np.float32)
    scores = np.zeros((CLASSES, height // STRIDE, width // STRIDE), np.float32)
    for nucleus, rows, columns in centre_cells(labels, STRIDE):
        kernels[:, rows, columns] = 0
        kernels[nucleus - 1, rows, columns] = 1
        own = classes[labels == nucleus]
        scores[:, rows, columns] = 0
        scores[np.bincount(own).argmax() - 1, rows, columns] = 0.9
    return {"features": features, "kernels": kernels, "classes": scores}


def place(found: Arrays, device: str) -> dict[str, Tensor]:
    """The maps stay on the device, as the network's would."""
    return {name: torch.from_numpy(array).to(device) for name, array in found.items()}


def finish(found: Mapping[str, Tensor] | Arrays) -> Labels:
    """Dynamic convolution of the cells that score, matrix NMS, painting; on the device that has the maps."""
    features, kernels, classes = (torch.as_tensor(found[name]) for name in ("features", "kernels", "classes"))
    scores = classes.permute(1, 2, 0).flatten(0, 1)
    cells, kinds = torch.nonzero(scores > 0.4, as_tuple=True)
    instances = np.zeros(features.shape[1:], np.int32)
    if not len(cells):
        return instances
    logits = F.conv2d(features[None], kernels.flatten(1).T[cells][:, :, None, None])[0]
    masks = logits > 0
    areas = masks.sum(dim=(1, 2)).float()
    rating = scores[cells, kinds] * (logits.sigmoid() * masks).sum(dim=(1, 2)) / areas.clamp(min=1)
    order = torch.argsort(rating, descending=True, stable=True)
    order = order[areas[order] > 4][:500]
    kept = order[matrix_nms(masks[order], kinds[order], rating[order], areas[order]) >= 0.2]
    painted: NDArray[np.bool_] = masks[kept].cpu().numpy()
    for number, mask in enumerate(painted, start=1):
        instances[mask] = number
    return instances


def matrix_nms(masks: Tensor, kinds: Tensor, rating: Tensor, areas: Tensor) -> Tensor:
    """Ratings that fall with the overlap with better masks of the same class (Gaussian, σ = 10)."""
    flat = masks.flatten(1).float()
    shared = flat @ flat.T
    iou = shared / (areas[:, None] + areas - shared)
    iou = (iou * (kinds[:, None] == kinds)).triu(diagonal=1)
    worst = iou.max(dim=0).values
    decay = torch.exp(-10 * (iou**2 - worst[:, None] ** 2)).min(dim=0).values
    return rating * decay


def peer() -> Peer:
    """The method."""
    return Peer(
        build=Network,
        activate=activate,
        maps=maps,
        finish=finish,
        place=place,
        outputs=("features", "kernels", "classes"),
        origin="network and post-processing from the paper, on timm's HRNet-W64",
        difference=(
            "heads of 5 convolutions, as the printed counts say; the paper "
            "counts transposed convolutions by their output"
        ),
    )
