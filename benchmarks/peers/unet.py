"""What StarDist and CPP-Net share on PanNuke: a ResNet-50 that keeps half the resolution, U-Net decoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

#: Rays of a star-convex polygon.
RAYS = 32


class Features(nn.Module):
    """ResNet-50 without its max pooling: 256, 512, 1024 and 2048 channels at strides 2, 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        network = resnet50(weights=None)
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4])

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Twice: 3×3 convolution, group norm of 8 channels a group, ELU."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.GroupNorm(outputs // 8, outputs), nn.ELU(inplace=True)]
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """Three steps up, each joined with the features of its resolution; 256 channels at stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([double_conv(3 * width, width) for width in (1024, 512, 256)])

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for step, skip in zip(self.steps, reversed(features[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = step(torch.cat([skip, x], dim=1))
        return x


class StarNetwork(nn.Module):
    """Rays, probability and classes of every pixel, from two decoders over the same features."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features, self.shape, self.semantic = Features(), Decoder(), Decoder()
        self.joint = nn.Conv2d(256, 256, 3, padding=1)
        self.rays = nn.Conv2d(256, RAYS, 1)
        self.probability = nn.Conv2d(256, 1, 1)
        self.classes = nn.Conv2d(256, 1 + classes, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.features(image)
        shape = self.joint(self.shape(features))
        maps = {"rays": self.refine(shape, self.rays(shape)), "probability": self.probability(shape)}
        maps["classes"] = self.classes(self.semantic(features))
        # The maps have half the image's resolution.
        return {name: enlarge(values) for name, values in maps.items()}

    def refine(self, shape: Tensor, rays: Tensor) -> Tensor:
        """StarDist leaves the rays as they are."""
        return rays


def enlarge(maps: Tensor) -> Tensor:
    """Twice the resolution."""
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=True)
