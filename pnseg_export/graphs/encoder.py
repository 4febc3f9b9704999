"""The segmentor's image encoder as a graph: everything about a window that no prompt changes."""

from __future__ import annotations

from torch import Tensor, nn

from pnseg_export.graphs.axes import Tensors
from pnseg_export.graphs.rewrites import CPU, Rewrites
from pnseg_export.graphs.two_way import SharedProjections
from pnseg_export.graphs.vit import FixedSizeEncoder
from pnseg_export.graphs.votes import vote_features
from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.mask_decoder import VotingMaskDecoder
from pnseg_train.models.segmentor import WINDOW, Segmentor
from pnseg_train.models.vit import PATCH, ResizedImageEncoder

TOKENS = WINDOW // PATCH  # image tokens a side
HALF = WINDOW // 2  # cells a side of nano's maps
MIDDLE = (WINDOW - 1) / 2  # of a window, px


class EncoderGraph(nn.Module):
    """``image`` (B, 3, 256, 256) → the tensors of :func:`feature_tensors`."""

    def __init__(self, segmentor: Segmentor, rewrites: Rewrites = CPU):
        super().__init__()
        self.inputs: Tensors = {"image": ["batch", 3, WINDOW, WINDOW]}
        self.outputs = feature_tensors(segmentor, rewrites)
        self.image_encoder = segmentor.image_encoder
        if rewrites.windows != "padded" and isinstance(segmentor.image_encoder, ResizedImageEncoder):
            self.image_encoder = FixedSizeEncoder(segmentor.image_encoder, TOKENS, rewrites.windows)
        self.tokens = _token_part(segmentor, rewrites)
        self.vote_product = rewrites.votes == "product"

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.image_encoder(image)
        if not isinstance(features, ImageFeatures):
            features = ImageFeatures(features)
        return (*self.tokens(features.embedding), *self._fine_part(features))

    def _fine_part(self, features: ImageFeatures) -> tuple[Tensor, ...]:
        votes, detail = features.votes, features.detail
        if votes is None or detail is None:  # SAM's own encoder has neither
            return ()
        return (vote_features(detail, votes, MIDDLE),) if self.vote_product else (votes, detail)


class DensePrompt(nn.Module):
    """The embedding alone, with what SAM adds to it where there is no mask prompt."""

    def __init__(self, segmentor: Segmentor):
        super().__init__()
        self.no_mask = segmentor.prompt_encoder.no_mask_embed

    def forward(self, embedding: Tensor) -> tuple[Tensor]:
        return (embedding + self.no_mask.weight[:, :, None, None],)


def _token_part(segmentor: Segmentor, rewrites: Rewrites) -> nn.Module:
    if not rewrites.shared_decoder:
        return DensePrompt(segmentor)
    prompts = segmentor.prompt_encoder
    return SharedProjections(segmentor.mask_decoder.transformer, prompts.get_dense_pe(), prompts.no_mask_embed.weight)


def feature_tensors(segmentor: Segmentor, rewrites: Rewrites = CPU) -> Tensors:
    """Names and axes of what the encoder hands to the decoder: tokens first, then nano's maps."""
    return _token_tensors(segmentor, rewrites) | _fine_tensors(segmentor, rewrites)


def _token_tensors(segmentor: Segmentor, rewrites: Rewrites) -> Tensors:
    width = segmentor.prompt_encoder.embed_dim
    if not rewrites.shared_decoder:
        return {"embedding": ["batch", width, TOKENS, TOKENS]}
    attention = segmentor.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    heads, count = attention.num_heads, TOKENS * TOKENS
    head_width = attention.internal_dim // heads
    return {
        "image_tokens": ["batch", count, width],
        "image_keys": ["batch", heads, head_width, count],
        "image_values": ["batch", heads, count, head_width],
        "image_queries": ["batch", heads, count, head_width],
    }


def _fine_tensors(segmentor: Segmentor, rewrites: Rewrites) -> Tensors:
    decoder = segmentor.mask_decoder
    if not isinstance(decoder, VotingMaskDecoder):
        return {}
    if rewrites.votes == "product":
        return {"vote_features": ["batch", decoder.detail + 3, HALF, HALF]}
    return {"votes": ["batch", 2, HALF, HALF], "detail": ["batch", decoder.detail, HALF, HALF]}
