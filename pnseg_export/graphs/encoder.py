"""The segmentor's image encoder as a graph: everything about a window that no prompt changes."""

from __future__ import annotations

from torch import Tensor, nn

from pnseg_export.graphs.axes import Tensors
from pnseg_train.models.mask_decoder import VotingMaskDecoder
from pnseg_train.models.segmentor import WINDOW, Segmentor
from pnseg_train.models.vit import PATCH


class EncoderGraph(nn.Module):
    """``image`` (B, 3, 256, 256) → ``embedding`` with the dense prompt added, and nano's ``votes`` and ``detail``."""

    def __init__(self, segmentor: Segmentor):
        super().__init__()
        self.segmentor = segmentor
        self.inputs: Tensors = {"image": ["batch", 3, WINDOW, WINDOW]}
        self.outputs = feature_tensors(segmentor)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.segmentor.encode(image)
        embedding = features.embedding + self.segmentor.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return tuple(part for part in (embedding, features.votes, features.detail) if part is not None)


def feature_tensors(segmentor: Segmentor) -> Tensors:
    """Names and axes of what the encoder hands to the decoder."""
    tokens = WINDOW // PATCH
    tensors: Tensors = {"embedding": ["batch", segmentor.prompt_encoder.embed_dim, tokens, tokens]}
    decoder = segmentor.mask_decoder
    if isinstance(decoder, VotingMaskDecoder):
        half = WINDOW // 2
        tensors |= {"votes": ["batch", 2, half, half], "detail": ["batch", decoder.detail, half, half]}
    return tensors
