"""SAM's attention blocks as one attention over the whole grid: fewer kernels for the same numbers.

Attention in windows, each with its own tokens (:mod:`pnseg_export.graphs.window_attention`), is the least
arithmetic, but a grid of 16×16 tokens falls into windows of 196, 28, 28 and 4, and a GPU has to start kernels for
each. Here a block is one softmax over all tokens. Places outside a query's window get a logit so low that their
weight is zero; what is beyond the grid but inside the window (SAM's padding) is one more key, as there.

A query's relative positions along an axis are products with one table for all queries. In a table whose
columns are offsets k - i, query i needs the columns that begin i places before the end: rows that lie one
behind the other, read with rows one place shorter, are shifted so. That needs no gathering.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor

from pnseg_export.graphs.positions import relative_positions
from pnseg_export.graphs.window_attention import UnpaddedAttention, log_sum

#: Added along each axis to logits of places that a query does not see. Unless a query's logits lie thousands apart, the
#: exponential of what is left is zero in any precision. Two of them and a position's logit are no end of half.
UNSEEN = -4096.0


class GridAttention(UnpaddedAttention):
    """Attention inside windows of a grid, as one product over the grid; ``window`` tokens a side."""

    def __init__(self, attention: Attention, side: int, window: int):
        super().__init__(attention, side)
        self.windowed, self.padding = window < side, -side % window
        # Places of keys along an axis, in spans as long as the grid: the first is real, the others are padding.
        self.spans = 1 + -(-self.padding // side)
        self.places = self.spans * side
        tables = [
            offset_table(relative_positions(positions, window), side, self.places)
            for positions in (attention.rel_pos_h, attention.rel_pos_w)
        ]
        self.table: Tensor
        self.unseen: Tensor
        self.all_real: Tensor
        self.register_buffer("table", torch.cat(tables, dim=1)[None])  # a stack of one, which 8 bits leave alone
        self.register_buffer("unseen", unseen_places(side, self.places, window))
        real = torch.arange(self.spans) == 0
        self.register_buffer("all_real", torch.where(real[:, None] & real, UNSEEN, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, side², C) → the same shape."""
        side, heads = self.side, self.heads
        q, k, v = self.qkv(x).reshape(-1, side * side, 3, heads, x.shape[-1] // heads).permute(2, 0, 3, 1, 4)
        by_row, by_column = self._positions(q)
        bias = by_row[..., :side, None] + by_column[..., None, :side]
        bias = bias.reshape(-1, heads, side * side, side * side)
        if self.padding:
            tokens = (x.shape[0], -1, -1, -1)
            k = torch.cat([k, self.key_bias.expand(tokens)], dim=2)
            v = torch.cat([v, self.value_bias.expand(tokens)], dim=2)
            bias = torch.cat([bias, self._padding_logit(by_row, by_column)], dim=3)
        weights = torch.softmax((q * self.scale) @ k.transpose(2, 3) + bias, dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(-1, side * side, x.shape[-1]))
        return out

    def _positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        # Logits (B, heads, side, side, places) of each query's places along rows and along columns.
        side, places = self.side, self.places
        both = (q @ self.table).reshape(-1, self.heads, side, side, 2 * (side + places))
        along_rows, along_columns = both.split(side + places, dim=-1)
        by_row = shifted(along_rows.transpose(2, 3), side, places)
        by_column = shifted(along_columns, side, places)
        if self.windowed or self.padding:
            by_row, by_column = by_row + self.unseen, by_column + self.unseen
        return by_row.transpose(2, 3), by_column

    def _padding_logit(self, by_row: Tensor, by_column: Tensor) -> Tensor:
        # (B, heads, side², 1): log of the padded places' summed weights, without q·b_k.
        # Real or padded row, real or padded column; the real ones of both have keys of their own.
        spans = (-1, self.heads, self.side, self.side, self.spans, self.side)
        rows, columns = (log_sum(part.reshape(spans)) for part in (by_row, by_column))
        kinds = rows + columns.transpose(4, 5) + self.all_real
        return log_sum(kinds.reshape(-1, self.heads, self.side * self.side, self.spans * self.spans))


@torch.no_grad()
def offset_table(positions: Tensor, side: int, places: int) -> Tensor:
    """Relative positions by offset, as :func:`shifted` wants them.

    Args:
        positions: (window, window, d) of every query and key of a window.
        side: queries along the axis.
        places: keys along the axis.

    Returns:
        (d, side + places): column k - i + side - 1 for key k and query i; zero where no window is as wide.
    """
    window, _, depth = positions.shape
    table = positions.new_zeros(depth, side + places)
    for offset in range(max(1 - window, 1 - side), min(window, places)):
        query = max(0, -offset)
        table[:, offset + side - 1] = positions[query, query + offset]
    return table


def unseen_places(side: int, places: int, window: int) -> Tensor:
    """(side, places): zero where a query and a place share a window, :data:`UNSEEN` elsewhere; padding included."""
    queries, keys = torch.arange(side) // window, torch.arange(places) // window
    return torch.where(queries[:, None] == keys, 0.0, UNSEEN)


def shifted(x: Tensor, side: int, places: int) -> Tensor:
    """Columns by offset → columns by place, each row's beginning one column before that of the row above.

    Args:
        x: (B, heads, n, side, side + places), column k - i + side - 1 for place k and row i; the last is not read.
        side: rows i.
        places: k.

    Returns:
        (B, heads, n, side, places).
    """
    heads, count, width = x.shape[1], x.shape[2], side + places
    behind = x.reshape(-1, heads, count, side * width)[..., side - 1 : side * width - 1]
    return behind.reshape(-1, heads, count, side, width - 1)[..., :places]
