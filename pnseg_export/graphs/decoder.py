"""SAM's prompt encoder and mask decoder as a graph, for prompts of several windows in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pnseg_export.graphs.axes import Tensors
from pnseg_export.graphs.encoder import HALF, MIDDLE, TOKENS, feature_tensors
from pnseg_export.graphs.mask_head import MaskHead
from pnseg_export.graphs.point_embedding import PointEmbedding
from pnseg_export.graphs.rewrites import CPU, Rewrites
from pnseg_export.graphs.two_way import FewTokens, SharedFeatures, TwoWay
from pnseg_export.graphs.votes import REFINEMENTS, NoRefinement
from pnseg_runtime.errors import PnsegError
from pnseg_train.models.mask_decoder import PointMaskDecoder, VotingMaskDecoder
from pnseg_train.models.segmentor import Segmentor

Masks = tuple[Tensor, Tensor, Tensor]


class DecoderGraph(nn.Module):
    """Masks of P prompts on what the encoder gave of their windows.

    Adds ``point_coords`` (P, 1 + K, 2), ``point_labels`` (P, 1 + K) and ``image_index`` (P,) to the
    encoder's tensors; gives ``mask_logits`` (P, m, m) and ``iou`` (P,).
    """

    def __init__(self, segmentor: Segmentor, rewrites: Rewrites = CPU):
        super().__init__()
        decoder = segmentor.mask_decoder
        if decoder.class_token is not None:
            raise PnsegError(
                "a segmentor that tells classes (class_by: segmentor) cannot be exported; use its checkpoint."
            )
        self.points = PointEmbedding(segmentor.prompt_encoder)
        self.masks = SharedMasks(segmentor, rewrites.few_tokens) if rewrites.shared_decoder else PlainMasks(segmentor)
        self.refine = _refinement(decoder, rewrites)
        self.rate = decoder.rate if isinstance(decoder, VotingMaskDecoder) else _as_predicted
        self.inputs: Tensors = feature_tensors(segmentor, rewrites) | {
            "point_coords": ["prompts", "points", 2],
            "point_labels": ["prompts", "points"],
            "image_index": ["prompts"],
        }
        side = HALF if isinstance(decoder, VotingMaskDecoder) else 4 * TOKENS
        self.outputs: Tensors = {"mask_logits": ["prompts", side, side], "iou": ["prompts"]}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        *features, coords, labels, image_index = tensors
        count = self.masks.features
        logits, iou, token = self.masks(features[:count], self.points(coords, labels), image_index)
        logits = self.refine(logits, token, coords[:, 0], features[count:], image_index)
        return logits, self.rate(logits, iou)


class PlainMasks(nn.Module):
    """SAM's decoder as it was trained."""

    features = 1

    def __init__(self, segmentor: Segmentor):
        super().__init__()
        self.decoder = segmentor.mask_decoder
        self.positions: Tensor
        self.register_buffer("positions", segmentor.prompt_encoder.get_dense_pe().detach())

    def forward(self, features: Sequence[Tensor], points: Tensor, image_index: Tensor) -> Masks:
        return self.decoder.decode(features[0].index_select(0, image_index), self.positions, points)[:3]


class SharedMasks(nn.Module):
    """SAM's decoder on projections of the image that all prompts of a window share."""

    features = len(SharedFeatures._fields)

    def __init__(self, segmentor: Segmentor, few: FewTokens):
        super().__init__()
        decoder: PointMaskDecoder = segmentor.mask_decoder
        self.transformer = TwoWay(decoder.transformer, segmentor.prompt_encoder.get_dense_pe(), few)
        self.head = MaskHead(decoder, TOKENS)
        self.own_tokens: Tensor
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.register_buffer("own_tokens", own.detach().clone())

    def forward(self, features: Sequence[Tensor], points: Tensor, image_index: Tensor) -> Masks:
        tokens = torch.cat([self.own_tokens.expand(points.shape[0], -1, -1), points], dim=1)
        tokens, image = self.transformer(SharedFeatures(*features).repeat(image_index), tokens)
        logits, iou = self.head(tokens, image)
        return logits, iou, tokens[:, 1]


def _refinement(decoder: PointMaskDecoder, rewrites: Rewrites) -> nn.Module:
    return REFINEMENTS[rewrites.votes](decoder, MIDDLE) if isinstance(decoder, VotingMaskDecoder) else NoRefinement()


def _as_predicted(_: Tensor, iou: Tensor) -> Tensor:
    return iou
