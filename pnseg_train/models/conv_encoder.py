"""nano's image encoder: an EfficientNet-Lite0 with a light decoder down to stride 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnseg_train.models.backbones import Lite0Features
from pnseg_train.models.features import ImageFeatures


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Refine(nn.Module):
    """A residual block that changes nothing before it is trained."""

    def __init__(self, width: int):
        super().__init__()
        self.inside = conv_block(width, width)
        self.outside = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.outside.weight)
        assert self.outside.bias is not None
        nn.init.zeros_(self.outside.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outside(self.inside(x))
        return out


class Merge(nn.Module):
    """Upsample the coarser map, add the finer one, smooth."""

    def __init__(self, coarse: int, fine: int, outputs: int, blocks: int, refine: int = 0):
        super().__init__()
        self.from_coarse = nn.Conv2d(coarse, outputs, 1)
        self.from_fine = nn.Conv2d(fine, outputs, 1)
        self.smooth = nn.Sequential(*(conv_block(outputs, outputs) for _ in range(blocks)))
        self.refine = nn.Sequential(*(Refine(outputs) for _ in range(refine)))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(self.from_coarse(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.refine(self.smooth(coarse + self.from_fine(fine)))
        return out


class ConvImageEncoder(nn.Module):
    """Embedding at stride 16, votes and detail features at stride 2.

    Args:
        width: channels of the embedding.
        detail: D, detail channels; the first is the logit of the nuclear region.
        pretrained: start from ImageNet weights.
    """

    def __init__(self, width: int, detail: int, pretrained: bool = False):
        super().__init__()
        self.backbone = Lite0Features((2, 4, 8, 16), pretrained)
        at2, at4, at8, at16 = self.backbone.channels
        self.context = nn.Sequential(
            conv_block(at16, width),
            nn.Conv2d(width, width, 5, padding=4, dilation=2, groups=width),
            nn.ReLU(),
            conv_block(width, width),
        )
        self.embed = nn.Conv2d(width, width, 1)
        self.merge8 = Merge(width, at8, 96, 1, refine=2)
        self.merge4 = Merge(96, at4, 64, 2, refine=1)
        self.merge2 = Merge(64, at2, 32, 2)
        self.head = nn.Conv2d(32, 2 + detail, 3, padding=1)

    def forward(self, image: Tensor) -> ImageFeatures:
        at2, at4, at8, at16 = self.backbone(image)
        context = self.context(at16)
        fine = self.head(self.merge2(self.merge4(self.merge8(context, at8), at4), at2))
        offsets, detail = fine[:, :2], fine[:, 2:]
        return ImageFeatures(self.embed(context), 16.0 * offsets.float() + pixel_centres(offsets, stride=2), detail)


def pixel_centres(like: Tensor, stride: int) -> Tensor:
    """(1, 2, h, w) coordinates (x, y) of a map's cells in the image, px, pixel centres at integers."""
    height, width = like.shape[-2:]
    ys = torch.arange(height, device=like.device, dtype=torch.float32) * stride + (stride - 1) / 2
    xs = torch.arange(width, device=like.device, dtype=torch.float32) * stride + (stride - 1) / 2
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])[None]
