"""SAM's image encoder at any input size, with parameters of the size it was trained at."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

SAM_IMAGE_SIZE = 1024
PATCH = 16


class ResizedImageEncoder(ImageEncoderViT):
    """SAM's ViT with its 1024-pixel positions resized when run, so that Meta's checkpoints load unchanged.

    Absolute positions are resized bicubically (``align_corners=False``); the global blocks'
    relative positions linearly, which SAM's own attention does.
    """

    def __init__(
        self, embed_dim: int, depth: int, num_heads: int, global_attn_indexes: tuple[int, ...], window_size: int = 14
    ):
        super().__init__(
            img_size=SAM_IMAGE_SIZE,
            patch_size=PATCH,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            global_attn_indexes=global_attn_indexes,
            window_size=window_size,
            out_chans=256,
            qkv_bias=True,
            use_rel_pos=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Embedding (B, 256, H/16, W/16) of normalised images (B, 3, H, W)."""
        x = self.patch_embed(image)
        x = x + resize_positions(self.pos_embed, x.shape[1:3])
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out


def resize_positions(positions: Tensor, size: torch.Size) -> Tensor:
    """Absolute positions (1, h, w, C) for a grid of another size."""
    if positions.shape[1:3] == size:
        return positions
    resized = F.interpolate(positions.permute(0, 3, 1, 2), size=tuple(size), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)
