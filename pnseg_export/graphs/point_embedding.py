"""SAM's embedding of point prompts as plain arithmetic."""

from __future__ import annotations

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn


class PointEmbedding(nn.Module):
    """SAM's embedding of point prompts without indexing by label.

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
