"""SAM's attention between few tokens and many image tokens, with projections on the side of the few.

Where a projection W stands between the N image tokens X (N, C) and a product with vectors a of the
tokens, one a head, (X Wᵀ) a = X (Wᵀ a). The right form projects heads·T vectors instead of N and
multiplies X as it lies in memory, so no image token is ever split into heads. Of the biases, a
key's shifts all logits of a query alike and drops out of the softmax; those of values and outputs
move to the tokens' side too, because the weights of a softmax sum to one.

P prompts, T tokens each, C channels, heads of width d; logits are scaled by 1/√d.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn


class TokensReadImage(nn.Module):
    """SAM's attention with tokens as queries, the image as keys and values."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads, self.q_proj, self.out_proj = attention.num_heads, attention.q_proj, attention.out_proj
        self.key_weight: Tensor
        self.value_weight: Tensor
        self.value_bias: Tensor
        self.register_buffer("key_weight", weight_by_head(attention.k_proj, self.heads) * scale(attention))
        self.register_buffer("value_weight", weight_by_head(attention.v_proj, self.heads).transpose(1, 2).contiguous())
        self.register_buffer("value_bias", attention.v_proj.bias.detach().reshape(self.heads, 1, -1).clone())

    def forward(self, tokens: Tensor, placed: Tensor, image: Tensor) -> Tensor:
        """What each token reads, (P, T, C).

        Args:
            tokens: (P, T, C) with their positions.
            placed: (P, N, C) image tokens with their positions.
            image: (P, N, C) image tokens.
        """
        queries = by_head(split_heads(self.q_proj(tokens), self.heads), self.key_weight)  # P, heads, T, C
        weights = torch.softmax(queries.flatten(1, 2) @ placed.transpose(1, 2), dim=-1)
        read = by_head((weights @ image).reshape(queries.shape), self.value_weight) + self.value_bias
        out: Tensor = self.out_proj(join_heads(read))
        return out

    def shared(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same with scaled keys (P, heads, d, N) and values (P, heads, N, d) that are projected already."""
        weights = torch.softmax(split_heads(self.q_proj(tokens), self.heads) @ keys, dim=-1)
        out: Tensor = self.out_proj(join_heads(weights @ values))
        return out


class ImageReadsTokens(nn.Module):
    """SAM's attention with the image as queries, tokens as keys and values."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads, self.k_proj, self.v_proj = attention.num_heads, attention.k_proj, attention.v_proj
        self.query_weight: Tensor
        self.query_bias: Tensor
        self.out_weight: Tensor
        self.out_bias: Tensor
        query_bias = attention.q_proj.bias.detach().reshape(self.heads, -1, 1)
        self.register_buffer("query_weight", weight_by_head(attention.q_proj, self.heads) * scale(attention))
        self.register_buffer("query_bias", query_bias * scale(attention))
        out = attention.out_proj.weight.detach().T  # heads·d, C
        self.register_buffer("out_weight", out.reshape(self.heads, -1, out.shape[1]).clone())
        # The weights of all heads sum to their number, so every token carries its share of the bias.
        self.register_buffer("out_bias", attention.out_proj.bias.detach() / self.heads)

    def forward(self, placed: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """What each image token reads, (P, N, C).

        Args:
            placed: (P, N, C) image tokens with their positions.
            tokens: (P, T, C) with their positions.
            values: (P, T, C) tokens.
        """
        by_token, bias = self._by_token(tokens)
        logits = placed @ by_token.transpose(1, 2) + bias.transpose(1, 2)
        return self._read(logits.unflatten(2, (self.heads, -1)).softmax(dim=-1), values)

    def shared(self, queries: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """The same with scaled queries (P, heads, N, d) that are projected already."""
        keys = split_heads(self.k_proj(tokens), self.heads)
        return self._read((queries @ keys.transpose(2, 3)).softmax(dim=-1).transpose(1, 2), values)

    def _by_token(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        # What the image is multiplied with for the logits (P, heads·T, C), and what is added (P, heads·T, 1).
        keys = split_heads(self.k_proj(tokens), self.heads)
        return by_head(keys, self.query_weight).flatten(1, 2), by_head(keys, self.query_bias).flatten(1, 2)

    def _written(self, values: Tensor) -> Tensor:
        # What each token hands to the image, (P, heads·T, C).
        written = by_head(split_heads(self.v_proj(values), self.heads), self.out_weight) + self.out_bias
        return written.flatten(1, 2)

    def _read(self, weights: Tensor, values: Tensor) -> Tensor:
        # weights (P, N, heads, T)
        return weights.flatten(2, 3) @ self._written(values)


class ImageReadsTokensInSteps(ImageReadsTokens):
    """The same with logits (P, heads, T, N) and a softmax over T in steps along N.

    T is 7 or 8 and fills no vector of a CPU; N is 256. TensorRT would not take these steps for an attention.
    """

    def forward(self, placed: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """What each image token reads, (P, N, C)."""
        by_token, bias = self._by_token(tokens)
        logits = by_token @ placed.transpose(1, 2) + bias
        return self._read(softmax_in_steps(logits.unflatten(1, (self.heads, -1))), values)

    def shared(self, queries: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """The same with scaled queries (P, heads, N, d) that are projected already."""
        keys = split_heads(self.k_proj(tokens), self.heads)
        return self._read(softmax_in_steps(keys @ queries.transpose(2, 3)), values)

    def _read(self, weights: Tensor, values: Tensor) -> Tensor:
        # weights (P, heads, T, N)
        return weights.flatten(1, 2).transpose(1, 2) @ self._written(values)


def softmax_in_steps(logits: Tensor) -> Tensor:
    """Softmax over the last axis but one."""
    weights = (logits - logits.amax(dim=-2, keepdim=True)).exp()
    return weights / weights.sum(dim=-2, keepdim=True)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(P, T, heads·d) → (P, heads, T, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(P, heads, T, d) → (P, T, heads·d)."""
    return x.transpose(1, 2).flatten(2, 3)


def by_head(x: Tensor, weight: Tensor) -> Tensor:
    """Each head's vectors (P, heads, T, d) times its own matrix (heads, d, C) → (P, heads, T, C).

    The prompts go into the rows: with a matrix for each prompt and head TensorRT would copy the weights P times.
    """
    heads, depth, width = weight.shape
    count = x.shape[2]
    rows = x.transpose(0, 1).reshape(heads, -1, depth)
    return (rows @ weight).reshape(heads, -1, count, width).transpose(0, 1)


def weight_by_head(projection: nn.Linear, heads: int) -> Tensor:
    """The weight (heads·d, C) of a projection as (heads, d, C)."""
    return projection.weight.detach().reshape(heads, -1, projection.in_features).clone()


def scale(attention: Attention) -> float:
    """1/√d."""
    return float((attention.internal_dim // attention.num_heads) ** -0.5)
