"""SAM's prompt encoder and mask decoder as a graph, for prompts of several windows in one batch."""

from __future__ import annotations

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from pnseg_export.graphs.axes import Tensors
from pnseg_export.graphs.encoder import feature_tensors
from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.mask_decoder import VotingMaskDecoder
from pnseg_train.models.segmentor import WINDOW, Segmentor


class PointEmbedding(nn.Module):
    """SAM's embedding of point prompts as plain arithmetic.

    SAM writes into the rows that carry a label, which turns into ``NonZero`` in a graph; sums
    weighted by the label give the same numbers.
    """

    def __init__(self, encoder: PromptEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(P, 2 + K, C) for coords (P, 1 + K, 2) px and labels (P, 1 + K); the last is SAM's padding point."""
        encoder = self.encoder
        labels = labels[:, :, None]
        size = torch.tensor(encoder.input_image_size[::-1], dtype=coords.dtype, device=coords.device)
        positions = encoder.pe_layer._pe_encoding((coords + 0.5) / size)
        missing, negative, positive = ((labels == value).to(positions.dtype) for value in (-1.0, 0.0, 1.0))
        embedded = (
            positions * (1.0 - missing)
            + missing * encoder.not_a_point_embed.weight
            + negative * encoder.point_embeddings[0].weight
            + positive * encoder.point_embeddings[1].weight
        )
        padding = encoder.not_a_point_embed.weight.expand(coords.shape[0], 1, -1)
        return torch.cat([embedded, padding], dim=1)


class DecoderGraph(nn.Module):
    """Masks of P prompts on what the encoder gave of their windows.

    Adds ``point_coords`` (P, 1 + K, 2), ``point_labels`` (P, 1 + K) and ``image_index`` (P,) to the
    encoder's tensors; gives ``mask_logits`` (P, m, m) and ``iou`` (P,).
    """

    def __init__(self, segmentor: Segmentor):
        super().__init__()
        self.decoder = segmentor.mask_decoder
        self.points = PointEmbedding(segmentor.prompt_encoder)
        self.positions: Tensor
        self.register_buffer("positions", segmentor.prompt_encoder.get_dense_pe().detach())
        self.inputs: Tensors = feature_tensors(segmentor) | {
            "point_coords": ["prompts", "points", 2],
            "point_labels": ["prompts", "points"],
            "image_index": ["prompts"],
        }
        side = WINDOW // (2 if isinstance(self.decoder, VotingMaskDecoder) else 4)
        self.outputs: Tensors = {"mask_logits": ["prompts", side, side], "iou": ["prompts"]}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        *features, coords, labels, image_index = tensors
        own = ImageFeatures(*features).repeat(image_index)
        logits, iou, token = self.decoder.decode(own.embedding, self.positions, self.points(coords, labels))
        if isinstance(self.decoder, VotingMaskDecoder) and own.votes is not None and own.detail is not None:
            logits = self.decoder.refine(logits, token, coords[:, 0], own.votes, own.detail)
        return logits, iou
