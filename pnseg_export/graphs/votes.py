"""nano's refinement of a mask by what every pixel votes for, in three forms with equal results.

A prompt's mask is Σ w·detail + s·(R² - |v - c|²) + b, where detail and vote v belong to the pixel
and weights w, sharpness s, centre c and bias b to the prompt. A vote is the pixel's own place x and
an offset o, so that |v - c|² = |x - c|² + (|o|² + 2 x·o) - 2 c·o. The first part is a sum of one
number a column and one a row; in the others every term is a product of something of the pixel and
something of the prompt, so the masks of all prompts are one product of (P, D + 3) and
(D + 3, pixels). No prompt needs a copy of its window's maps: a prompt's row holds its factors at its
own window and zeros at the others. That is :class:`VoteProduct`.

Places are measured from the middle of the window, where the products that cancel are smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnseg_train.models.conv_encoder import pixel_centres
from pnseg_train.models.mask_decoder import INITIAL_RADIUS, VOTE_SCALE, VotingMaskDecoder

RADIUS_SQUARED = (INITIAL_RADIUS / VOTE_SCALE) ** 2


def vote_features(detail: Tensor, votes: Tensor, middle: float) -> Tensor:
    """What the product needs of every pixel.

    Args:
        detail: (B, D, h, w).
        votes: (B, 2, h, w), px.
        middle: of the window, px, in both directions.

    Returns:
        (B, D + 3, h, w).
    """
    places = pixel_centres(votes, stride=2)
    offset = (votes - places) / VOTE_SCALE
    moved = (offset + 2.0 * (places - middle) / VOTE_SCALE) * offset
    return torch.cat([detail, offset, moved.sum(dim=1, keepdim=True)], dim=1)


class NoRefinement(nn.Module):
    """SAM's own masks."""

    def forward(
        self, logits: Tensor, token: Tensor, point: Tensor, maps: Sequence[Tensor], image_index: Tensor
    ) -> Tensor:
        """Mask logits.

        Args:
            logits: (P, m, m) of SAM's decoder.
            token: (P, C) mask token.
            point: (P, 2) the positive prompt, px.
            maps: what the encoder gives at stride 2 of all windows.
            image_index: (P,) the window of each prompt.
        """
        return logits


class PlainVotes(NoRefinement):
    """The trained decoder's own code, on (B, 2, 2m, 2m) votes and (B, D, 2m, 2m) details."""

    def __init__(self, decoder: VotingMaskDecoder, middle: float):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, logits: Tensor, token: Tensor, point: Tensor, maps: Sequence[Tensor], image_index: Tensor
    ) -> Tensor:
        votes, detail = (part.index_select(0, image_index) for part in maps)
        return self.decoder.refine(logits, token, point, votes, detail)


class _Votes(NoRefinement):
    # What the rewritten forms share: the prompt's side of the sum.
    def __init__(self, decoder: VotingMaskDecoder, middle: float):
        super().__init__()
        self.detail, self.kernel_mlp, self.middle = decoder.detail, decoder.kernel_mlp, middle

    def _prompt(self, token: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Weights (P, D), centre (P, 2) from the middle in units of a vote, sharpness (P, 1), bias (P, 1).
        weights, shift, sharpness, bias = self.kernel_mlp(token).split([self.detail, 2, 1, 1], dim=1)
        return weights, (point - self.middle) / VOTE_SCALE + shift, 4.0 * torch.exp(sharpness), bias


class GatheredVotes(_Votes):
    """From each prompt's copy of its window's votes and details, with no einsum."""

    def forward(
        self, logits: Tensor, token: Tensor, point: Tensor, maps: Sequence[Tensor], image_index: Tensor
    ) -> Tensor:
        votes, detail = (part.index_select(0, image_index) for part in maps)
        weights, centre, sharpness, bias = self._prompt(token, point)
        offset = (votes.flatten(2) - self.middle) / VOTE_SCALE - centre[:, :, None]
        kernel = sharpness * (RADIUS_SQUARED - offset.square().sum(dim=1)) + bias
        refined = (weights[:, None] @ detail.flatten(2))[:, 0] + kernel
        return doubled(logits) + refined.reshape(-1, *detail.shape[2:])


class VoteProduct(_Votes):
    """As one product with (B, D + 3, 2m, 2m) :func:`vote_features`."""

    def forward(
        self, logits: Tensor, token: Tensor, point: Tensor, maps: Sequence[Tensor], image_index: Tensor
    ) -> Tensor:
        (features,) = maps
        weights, centre, sharpness, bias = self._prompt(token, point)
        factors = torch.cat([weights, 2.0 * sharpness * centre, -sharpness], dim=1)
        places = (2.0 * torch.arange(features.shape[-1], device=point.device) + 0.5 - self.middle) / VOTE_SCALE
        columns, rows = (-sharpness * (places - along).square() for along in centre.split(1, dim=1))
        columns = columns + sharpness * RADIUS_SQUARED + bias
        own = (image_index[:, None] == torch.arange(features.shape[0], device=point.device)).to(factors.dtype)
        spread = (own[:, :, None] * factors[:, None]).flatten(1)  # P, B·(D + 3)
        refined = (spread @ features.flatten(2).flatten(0, 1)).reshape(-1, *features.shape[2:])
        return doubled(logits) + refined + (columns[:, None] + rows[:, :, None])


def doubled(logits: Tensor) -> Tensor:
    """Mask logits (P, m, m) at twice the resolution, bilinear."""
    return F.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]


#: :attr:`pnseg_export.graphs.rewrites.Rewrites.votes` → its form.
REFINEMENTS: dict[str, Callable[[VotingMaskDecoder, float], nn.Module]] = {
    "plain": PlainVotes,
    "gathered": GatheredVotes,
    "product": VoteProduct,
}
