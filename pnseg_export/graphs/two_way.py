"""SAM's two-way transformer, with the first layer's projections of the image done once an image.

Until the first image update, the image tokens of all prompts of a window are the same, and so are
the first layer's keys and values for the tokens and its queries for the image.
:class:`SharedProjections` computes them beside the embedding; :class:`TwoWay` goes on from there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from segment_anything.modeling.transformer import TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn

from pnseg_export.graphs.absorbed_attention import (
    ImageReadsTokens,
    ImageReadsTokensInSteps,
    TokensReadImage,
    scale,
    split_heads,
)

#: How the softmax over a prompt's few tokens is computed: as one operator, or in steps along the image.
FewTokens = Literal["softmax", "steps"]
IMAGE_READS: dict[FewTokens, type[ImageReadsTokens]] = {"softmax": ImageReadsTokens, "steps": ImageReadsTokensInSteps}


class SharedFeatures(NamedTuple):
    """What the transformer needs of B windows; of P prompts, when each has its window's.

    Attributes:
        tokens: (B, N, C) image tokens, the dense prompt added.
        keys: (B, heads, d, N) of the first layer's attention to the image, scaled by 1/√d.
        values: (B, heads, N, d) of the same.
        queries: (B, heads, N, d) of the first layer's attention to the tokens, scaled by 1/√d.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor

    def repeat(self, image_index: Tensor) -> SharedFeatures:
        """One entry a prompt: entry i is that of window ``image_index[i]``."""
        return SharedFeatures(*(part.index_select(0, image_index) for part in self))


class SharedProjections(nn.Module):
    """What no prompt changes.

    Args:
        transformer: SAM's.
        positions: (1, C, h, w) positional encoding of the image tokens.
        dense_prompt: (1, C), added to every image token.
    """

    def __init__(self, transformer: TwoWayTransformer, positions: Tensor, dense_prompt: Tensor):
        super().__init__()
        first = transformer.layers[0]
        self.by_tokens, self.by_image = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        self.positions: Tensor
        self.dense_prompt: Tensor
        self.register_buffer("positions", as_tokens(positions).detach().clone())
        self.register_buffer("dense_prompt", dense_prompt.detach().clone())

    def forward(self, embedding: Tensor) -> SharedFeatures:
        """From an image encoder's embedding (B, C, h, w)."""
        tokens = as_tokens(embedding) + self.dense_prompt
        placed = tokens + self.positions
        heads = self.by_tokens.num_heads
        return SharedFeatures(
            tokens=tokens,
            keys=split_heads(self.by_tokens.k_proj(placed), heads).transpose(2, 3) * scale(self.by_tokens),
            values=split_heads(self.by_tokens.v_proj(tokens), heads),
            queries=split_heads(self.by_image.q_proj(placed), heads) * scale(self.by_image),
        )


class TwoWay(nn.Module):
    """SAM's two-way transformer on shared features.

    Args:
        transformer: SAM's.
        positions: (1, C, h, w) positional encoding of the image tokens.
        few: how the image reads the few tokens.
    """

    def __init__(self, transformer: TwoWayTransformer, positions: Tensor, few: FewTokens):
        super().__init__()
        first, *rest = transformer.layers
        self.first, self.rest = FirstLayer(first, few), nn.ModuleList(Layer(block, few) for block in rest)
        self.final_read = TokensReadImage(transformer.final_attn_token_to_image)
        self.final_norm = transformer.norm_final_attn
        self.positions: Tensor
        self.register_buffer("positions", as_tokens(positions).detach().clone())

    def forward(self, features: SharedFeatures, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, C) and image tokens (P, N, C) behind all layers.

        Args:
            features: one entry a prompt.
            tokens: (P, T, C), which are also their own positions.
        """
        queries, image = self.first(features, tokens)
        placed = image + self.positions
        for layer in self.rest:
            queries, image = layer(queries, image, placed, tokens)
            placed = image + self.positions
        return self.final_norm(queries + self.final_read(queries + tokens, placed, image)), image


class _TokenPart(nn.Module):
    # What all layers do with their tokens.
    def __init__(self, block: TwoWayAttentionBlock, few: FewTokens):
        super().__init__()
        self.tokens_read = TokensReadImage(block.cross_attn_token_to_image)
        self.image_reads = IMAGE_READS[few](block.cross_attn_image_to_token)
        self.self_attention, self.mlp = block.self_attn, block.mlp
        self.norm1, self.norm2, self.norm3, self.norm4 = block.norm1, block.norm2, block.norm3, block.norm4

    def _update(self, queries: Tensor, read: Tensor) -> Tensor:
        queries = self.norm2(queries + read)
        out: Tensor = self.norm3(queries + self.mlp(queries))
        return out


class FirstLayer(_TokenPart):
    """The layer in which the image is still the same for every prompt; its tokens have no positions to add yet."""

    def forward(self, features: SharedFeatures, tokens: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.norm1(self.self_attention(tokens, tokens, tokens))
        queries = self._update(queries, self.tokens_read.shared(queries + tokens, features.keys, features.values))
        read = self.image_reads.shared(features.queries, queries + tokens, queries)
        return queries, add_and_norm(features.tokens, read, self.norm4)


class Layer(_TokenPart):
    """Any later layer."""

    def forward(self, queries: Tensor, image: Tensor, placed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        at = queries + tokens
        queries = self.norm1(queries + self.self_attention(at, at, queries))
        queries = self._update(queries, self.tokens_read(queries + tokens, placed, image))
        read = self.image_reads(placed, queries + tokens, queries)
        return queries, add_and_norm(image, read, self.norm4)


def add_and_norm(image: Tensor, read: Tensor, norm: nn.Module) -> Tensor:
    """The norm of a sum of image tokens (P, N, C).

    All tokens in one row keep sum and norm apart: ONNX Runtime would join the two in a CPU kernel that takes ten
    times as long as both.
    """
    out: Tensor = norm((image + read).flatten(0, 1)).unflatten(0, (-1, image.shape[1]))
    return out


def as_tokens(features: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h·w, C)."""
    return features.flatten(2).transpose(1, 2)
