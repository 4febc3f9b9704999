"""The prompter: one point and one class on every nucleus (paper section 3.1).

Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrompterOutput(NamedTuple):
    """Raw outputs for B images with M anchors and C classes.

    Attributes:
        points: (B, M, 2) proposed points (x, y), px.
        class_logits: (B, M, C + 1), background last.
        region_logits: (B, 1, H, W) of the nuclear region.
    """

    points: Tensor
    class_logits: Tensor
    region_logits: Tensor


class _Conv(nn.Module):
    # Holds a convolution under the name that published checkpoints use.
    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class FeaturePyramid(nn.Module):
    """Feature pyramid: top-down over all levels, smoothed on the first ``outputs`` only."""

    def __init__(self, inputs: tuple[int, ...], channels: int, outputs: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Conv(width, channels, 1) for width in inputs)
        self.fpn_convs = nn.ModuleList(_Conv(channels, channels, 3) for _ in range(outputs))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(feature) for lateral, feature in zip(self.lateral_convs, features, strict=True)]
        for level in range(len(levels) - 1, 0, -1):
            size = levels[level - 1].shape[-2:]
            levels[level - 1] = levels[level - 1] + F.interpolate(levels[level], size=size, mode="nearest")
        return [smooth(level) for smooth, level in zip(self.fpn_convs, levels, strict=False)]


class PyramidBackbone(nn.Module):
    """A backbone with two pyramids: one for the points, one for the nuclear region."""

    def __init__(self, backbone: nn.Module, channels: int, region_channels: int, levels: int):
        super().__init__()
        widths: tuple[int, ...] = backbone.channels  # type: ignore[assignment]
        self.backbone = backbone
        self.neck = FeaturePyramid(widths, channels, levels)
        self.neck1 = FeaturePyramid(widths, region_channels, 1)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.pyramids(self.backbone(image))

    def pyramids(self, features: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Both pyramids over the backbone's features."""
        return self.neck(features), self.neck1(features)[0]


class Mlp(nn.Module):
    """Two linear layers with ReLU and dropout between them."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, inputs), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def anchor_grid(height: int, width: int, spacing: int, device: torch.device | None = None) -> Tensor:
    """Anchors (x, y), px, centred in the image: (ceil(H/λ), ceil(W/λ), 2) float32."""
    xs = torch.arange(-(-width // spacing), device=device) * spacing + (width % spacing or spacing) / 2
    ys = torch.arange(-(-height // spacing), device=device) * spacing + (height % spacing or spacing) / 2
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).float()


def sample_at(features: Tensor, points: Tensor, stride: int, fixed: bool = False) -> Tensor:
    """Bilinear features (B, C, h, w) at points (B, h, w, 2), px; zeros outside the map.

    Args:
        features: of one stride.
        points: where to read.
        stride: of the features, px.
        fixed: read pixel x at x / stride − ½, whatever the image's size. Otherwise, as published weights expect, at
            x / stride · (1 − 1 / w): half a feature to either side of that, according to where in the image x lies.
    """
    height, width = features.shape[-2:]
    size = torch.tensor([width, height], dtype=points.dtype, device=points.device)
    grid = (2.0 * points / stride / size - 1.0).to(features.dtype)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=not fixed)


class Prompter(nn.Module):
    """Anchors that move onto nuclei, a class for each, and a map of the nuclear region.

    Args:
        backbone: gives features at strides 4, 8, 16 and 32.
        channels: width of the points' pyramid and heads.
        levels: L, pyramid levels read at an anchor.
        spacing: λ, distance of anchors, px.
        num_classes: C, without background.
        region_channels: width of the region's pyramid and head; the paper's is that of the points.
        fixed_grid: read features where they lie in images of any size, so that an image cut in two has the points
            that it has in one piece, as far as the backbone sees no farther than the cut. The published networks,
            trained and tested on images of one size, stretch features over the image (see :func:`sample_at`).
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        levels: int,
        spacing: int,
        num_classes: int,
        region_channels: int | None = None,
        fixed_grid: bool = False,
    ):
        super().__init__()
        self.fixed_grid = fixed_grid
        self.levels, self.spacing, self.num_classes = levels, spacing, num_classes
        region_channels = region_channels or channels
        self.backbone = PyramidBackbone(backbone, channels, region_channels, levels)
        self.deform_layer = Mlp(channels, 2)
        self.reg_head = Mlp(channels, 2)
        self.cls_head = Mlp(channels, num_classes + 1)
        self.conv = nn.Conv2d(channels * levels, channels, 3, padding=1)
        # Published weights expect the map to be two pixels larger, by the last convolution's padding.
        self.mask_head = nn.Sequential(
            nn.Conv2d(region_channels, region_channels, 3, padding=1),
            nn.BatchNorm2d(region_channels),
            nn.ReLU(),
            nn.Conv2d(region_channels, 1, 1, padding=0 if fixed_grid else 1),
        )

    def forward(self, image: Tensor) -> PrompterOutput:
        """Raw outputs for normalised images (B, 3, H, W)."""
        return self.propose(self.backbone(image), (image.shape[2], image.shape[3]))

    def propose(self, pyramids: tuple[list[Tensor], Tensor], shape: tuple[int, int]) -> PrompterOutput:
        """Raw outputs from both pyramids of images of a shape (H, W)."""
        (levels, region_features), (height, width) = pyramids, shape
        anchors = anchor_grid(height, width, self.spacing, region_features.device)
        anchors = anchors.expand(region_features.shape[0], -1, -1, -1)  # len() would fix the size in a graph

        at_anchors = sample_at(levels[0], anchors, 4, self.fixed_grid).permute(0, 2, 3, 1)
        deformed = anchors + self.deform_layer(at_anchors).float()

        sampled = [sample_at(level, deformed, 4 << index, self.fixed_grid) for index, level in enumerate(levels)]
        decoded = self.conv(torch.cat(sampled, dim=1)).permute(0, 2, 3, 1)
        points = deformed + self.reg_head(decoded).float()
        class_logits = self.cls_head(decoded)

        region = F.interpolate(
            self.mask_head(region_features),
            size=(height, width),
            mode="bilinear",
            align_corners=not self.fixed_grid,
        )
        return PrompterOutput(points.flatten(1, 2), class_logits.flatten(1, 2).float(), region.float())
