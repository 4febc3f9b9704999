"""SAM's image encoder for windows of one size: no padding, no interpolation of positions."""

from __future__ import annotations

from typing import Literal

from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from pnseg_export.graphs.grid_attention import GridAttention
from pnseg_export.graphs.positions import absolute_positions
from pnseg_export.graphs.window_attention import RegionAttention
from pnseg_train.models.vit import ResizedImageEncoder

#: How a block's windows attend: each for itself, or all in one product.
Attending = Literal["apart", "together"]
ATTENTION: dict[Attending, type[RegionAttention | GridAttention]] = {
    "apart": RegionAttention,
    "together": GridAttention,
}


class UnpaddedBlock(nn.Module):
    """A transformer block whose attention sees real tokens only.

    Tokens lie in one row: OpenVINO has a kernel for norms of a row of tokens and none for those of a grid.
    """

    def __init__(self, block: Block, side: int, windows: Attending):
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = ATTENTION[windows](block.attn, side, block.window_size or side)

    def forward(self, x: Tensor) -> Tensor:
        """(B, side², C) → the same shape."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class FixedSizeEncoder(nn.Module):
    """The embedding (B, 256, side, side) that :class:`ResizedImageEncoder` gives of images of 16·side px.

    Args:
        encoder: the trained encoder; its parameters are used, not copied.
        side: tokens a side.
        windows: how windowed blocks attend.
    """

    def __init__(self, encoder: ResizedImageEncoder, side: int, windows: Attending):
        super().__init__()
        self.patch_embed, self.neck, self.side = encoder.patch_embed, encoder.neck, side
        self.positions: Tensor
        self.register_buffer("positions", absolute_positions(encoder, side))
        self.blocks = nn.Sequential(*(UnpaddedBlock(block, side, windows) for block in encoder.blocks))

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks((self.patch_embed(image) + self.positions).flatten(1, 2))
        out: Tensor = self.neck(x.transpose(1, 2).unflatten(2, (self.side, self.side)))
        return out
