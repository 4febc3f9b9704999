"""Positions of SAM's ViT at the window's size, computed when a graph is made instead of when it runs.

SAM keeps its positions in the shape of its 1024-pixel training images. In a 256-pixel window they
are resized to constants, so no interpolation of parameters is left in a graph.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor

from pnseg_train.models.vit import ResizedImageEncoder, resize_positions


@torch.no_grad()
def absolute_positions(encoder: ResizedImageEncoder, side: int) -> Tensor:
    """Absolute positions (1, side, side, C) of a grid of tokens, resized bicubically."""
    assert encoder.pos_embed is not None
    return resize_positions(encoder.pos_embed, torch.Size((side, side))).detach().clone()


@torch.no_grad()
def relative_positions(table: Tensor, side: int) -> Tensor:
    """Relative positions of every query (row) and key (column) along one axis.

    Args:
        table: (2s - 1, d) of a block that was trained at s tokens a side.
        side: tokens a side that the block attends over; the table is resized linearly to 2·side - 1.

    Returns:
        (side, side, d).
    """
    return get_rel_pos(side, side, table).detach().clone()
