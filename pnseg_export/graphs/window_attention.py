"""SAM's attention blocks on real tokens only: window attention without its padding.

SAM pads a grid of tokens to whole windows with zeros behind the norm. A padded token's key is then
the key bias b_k and its value the value bias b_v, whatever the image. All padded keys of a window
so share q·b_k and b_v, and differ in their relative positions alone: for a query at (i, j) they
weigh together as much as one key with the logit

    q·b_k/√d + log Σ exp(rel_h(i, k) + rel_w(j, l))  over the padded places (k, l)

and the value b_v. The padded places of a window are its rows below the grid, in all columns, and
its columns to the right of the grid in the rows left; the sum over a rectangle of places is a
product of sums, so the logarithm needs a window's side of terms a direction and not its area.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from pnseg_export.graphs.positions import relative_positions


@dataclass(frozen=True)
class Region:
    """The real tokens of one window: rows ``top`` to ``bottom``, columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def window_regions(side: int, window: int) -> list[list[Region]]:
    """The windows over ``side`` × ``side`` tokens, as rows of regions without their padding."""
    spans = [(start, min(start + window, side)) for start in range(0, side, window)]
    return [[Region(*rows, *columns) for columns in spans] for rows in spans]


class UnpaddedAttention(nn.Module):
    """What attention of SAM's ViT needs to see real tokens only: its projections, and a padded token's key and value.

    A global block is one window as large as the grid.

    Args:
        attention: the block's attention.
        side: tokens a side of the grid.
    """

    def __init__(self, attention: Attention, side: int):
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale, self.side = attention.num_heads, attention.scale, side
        _, key_bias, value_bias = attention.qkv.bias.detach().reshape(3, 1, self.heads, 1, -1)
        self.key_bias: Tensor
        self.value_bias: Tensor
        self.register_buffer("key_bias", key_bias.clone())
        self.register_buffer("value_bias", value_bias.clone())


class RegionAttention(UnpaddedAttention):
    """Attention inside windows of a grid, each reduced to its real tokens; ``window`` tokens a side."""

    def __init__(self, attention: Attention, side: int, window: int):
        super().__init__(attention, side)
        self.window, self.regions = window, window_regions(side, window)
        self.rows: Tensor
        self.columns: Tensor
        # (window, d, window): of each query, the positions of all keys, ready for a product with queries
        self.register_buffer("rows", relative_positions(attention.rel_pos_h, window).transpose(1, 2).contiguous())
        self.register_buffer("columns", relative_positions(attention.rel_pos_w, window).transpose(1, 2).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(B, side², C) → the same shape."""
        batch = x.shape[0]
        split = self.qkv(x).reshape(batch, self.side, self.side, 3, self.heads, -1)
        qkv = split.permute(3, 0, 4, 1, 2, 5)  # 3, B, heads, side, side, d
        rows = [torch.cat([self._attend(qkv, region) for region in row], dim=2) for row in self.regions]
        out: Tensor = self.proj(torch.cat(rows, dim=1).flatten(1, 2))
        return out

    def _attend(self, qkv: Tensor, region: Region) -> Tensor:
        # (B, height, width, C) of the region's tokens.
        height, width = region.height, region.width
        q, k, v = qkv[:, :, :, region.top : region.bottom, region.left : region.right]
        by_row = q @ self.rows[:height]  # B, heads, height, width, window
        by_column = (q.transpose(2, 3) @ self.columns[:width]).transpose(2, 3)
        q, k, v = (part.flatten(2, 3) for part in (q, k, v))
        bias = (by_row[..., :height, None] + by_column[..., None, :width]).flatten(4, 5).flatten(2, 3)
        if (padding := self._padding_logit(by_row, by_column, region)) is not None:
            tokens = (q.shape[0], -1, -1, -1)
            k = torch.cat([k, self.key_bias.expand(tokens)], dim=2)
            v = torch.cat([v, self.value_bias.expand(tokens)], dim=2)
            bias = torch.cat([bias, padding.flatten(2, 3)], dim=3)
        weights = torch.softmax((q * self.scale) @ k.transpose(2, 3) + bias, dim=-1)
        return (weights @ v).transpose(1, 2).reshape(q.shape[0], height, width, -1)

    def _padding_logit(self, by_row: Tensor, by_column: Tensor, region: Region) -> Tensor | None:
        # (B, heads, height, width, 1): log of the padded places' summed weights, without q·b_k.
        height, width = region.height, region.width
        parts = []
        if height < self.window:  # the rows below, in all columns
            parts.append(log_sum(by_row[..., height:]) + log_sum(by_column))
        if width < self.window:  # the columns to the right, in the rows that are real
            parts.append(log_sum(by_row[..., :height]) + log_sum(by_column[..., width:]))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else log_sum(torch.cat(parts, dim=-1))


def log_sum(x: Tensor) -> Tensor:
    """Log Σ exp over the last axis, which stays with size 1; safe for large values."""
    largest = x.amax(dim=-1, keepdim=True)
    return largest + (x - largest).exp().sum(dim=-1, keepdim=True).log()
