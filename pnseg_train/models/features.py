"""What an image encoder hands to the mask decoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """Everything about B images that no prompt changes.

    Attributes:
        embedding: (B, C, H/16, W/16).
        votes: (B, 2, H/2, W/2) voted centroids (x, y), px; nano only.
        detail: (B, D, H/2, W/2) detail features, the first the region logit; nano only.
    """

    embedding: Tensor
    votes: Tensor | None = None
    detail: Tensor | None = None

    def repeat(self, image_index: Tensor) -> ImageFeatures:
        """One entry a prompt: row i is that of image ``image_index[i]``."""
        votes, detail = (None if part is None else part.index_select(0, image_index) for part in self[1:])
        return ImageFeatures(self.embedding.index_select(0, image_index), votes, detail)
