"""ConvNeXt with its features as rows of tokens, which engines norm and multiply as they lie in memory.

A block norms and multiplies the channels of each place, and only its depthwise convolution looks at neighbours. timm
keeps maps (B, C, H, W) between blocks and turns them round twice in each. Here tokens (B, H·W, C) stand between
blocks, and only the convolution sees a map, which costs nothing where convolutions have the channels last, as those
of OpenVINO have. OpenVINO also has a kernel for norms of rows of tokens, and none for those of maps.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock, ConvNeXtStage
from torch import Tensor, nn

from pnseg_train.models.backbones import ConvNeXtFeatures


class TokenBlock(nn.Module):
    """A ConvNeXt block on tokens."""

    def __init__(self, block: ConvNeXtBlock):
        super().__init__()
        self.conv_dw, self.norm, self.mlp, self.gamma = block.conv_dw, block.norm, block.mlp, block.gamma

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B, H·W, C) → the same shape."""
        looked = as_tokens(self.conv_dw(as_map(tokens, height, width)))
        change: Tensor = self.mlp(self.norm(looked))
        return tokens + (change if self.gamma is None else change * self.gamma)


class TokenStage(nn.Module):
    """A stage of ConvNeXt on tokens."""

    def __init__(self, stage: ConvNeXtStage):
        super().__init__()
        self.downsample = stage.downsample
        self.blocks = nn.ModuleList(TokenBlock(block) for block in stage.blocks)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        """(B, H·W, C) of a map → (B, H'·W', C'), H' and W'."""
        if isinstance(self.downsample, nn.Sequential):
            norm, convolution = self.downsample
            features = convolution(as_map(norm_tokens(tokens, norm), height, width))
            tokens, (height, width) = as_tokens(features), features.shape[2:]
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return tokens, height, width


class TokenConvNeXt(nn.Module):
    """The features of :class:`ConvNeXtFeatures`; its parameters are used, not copied."""

    def __init__(self, backbone: ConvNeXtFeatures):
        super().__init__()
        self.patches, self.norm = backbone.stem
        self.stages = nn.ModuleList(TokenStage(stage) for stage in backbone.stages)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> list[Tensor]:
        patches = self.patches(image)
        tokens, (height, width) = norm_tokens(as_tokens(patches), self.norm), patches.shape[2:]
        features = []
        for stage in self.stages:
            tokens, height, width = stage(tokens, height, width)
            features.append(as_map(tokens, height, width))
        return features


def norm_tokens(tokens: Tensor, norm: nn.Module) -> Tensor:
    """Timm's layer norm over the channels of maps (B, C, H, W), on their tokens (B, H·W, C)."""
    assert isinstance(norm, nn.LayerNorm)
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def as_tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C)."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C) → (B, C, H, W)."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
