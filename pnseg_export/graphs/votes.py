"""nano's refinement of a mask as one matrix product over all prompts.

A prompt's mask is Σ w·detail + s·(R² - |v - c|²) + b, where detail and vote v belong to the pixel
and weights w, sharpness s, centre c and bias b to the prompt. With |v - c|² = |v|² - 2 v·c + |c|²
every term is a product of something of the pixel and something of the prompt, so the masks of all
prompts are one product of (P, D + 3) and (D + 3, pixels), to which a number a prompt is added. No
prompt needs a copy of its window's maps: a prompt's row holds its factors at its own window and
zeros at the others.

Votes are measured from the middle of the window, where the squares that cancel are smallest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnseg_train.models.mask_decoder import INITIAL_RADIUS, VOTE_SCALE, VotingMaskDecoder


def vote_features(detail: Tensor, votes: Tensor, middle: float) -> Tensor:
    """What the product needs of every pixel.

    Args:
        detail: (B, D, h, w).
        votes: (B, 2, h, w), px.
        middle: of the window, px, in both directions.

    Returns:
        (B, D + 3, h, w).
    """
    centred = (votes - middle) / VOTE_SCALE
    return torch.cat([detail, centred, centred.square().sum(dim=1, keepdim=True)], dim=1)


class VoteProduct(nn.Module):
    """:meth:`VotingMaskDecoder.refine` on :func:`vote_features`."""

    def __init__(self, decoder: VotingMaskDecoder, middle: float):
        super().__init__()
        self.detail, self.kernel_mlp, self.middle = decoder.detail, decoder.kernel_mlp, middle

    def forward(self, logits: Tensor, token: Tensor, point: Tensor, features: Tensor, image_index: Tensor) -> Tensor:
        """Mask logits (P, 2m, 2m) at stride 2.

        Args:
            logits: (P, m, m) of SAM's decoder.
            token: (P, C) mask token.
            point: (P, 2) the positive prompt, px.
            features: (B, D + 3, 2m, 2m) of all windows.
            image_index: (P,) the window of each prompt.
        """
        factors, constant = self.factors(token, point)
        own = (image_index[:, None] == torch.arange(features.shape[0], device=point.device)).to(factors.dtype)
        spread = (own[:, :, None] * factors[:, None]).flatten(1)  # P, B·(D + 3)
        refined = spread @ features.flatten(2).flatten(0, 1) + constant
        upsampled = F.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)
        return upsampled[:, 0] + refined.reshape(-1, *features.shape[2:])

    def factors(self, token: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """A prompt's side of the product: (P, D + 3), and the number to add: (P, 1)."""
        weights, shift, sharpness, bias = self.kernel_mlp(token).split([self.detail, 2, 1, 1], dim=1)
        centre = (point - self.middle) / VOTE_SCALE + shift
        sharpness = 4.0 * torch.exp(sharpness)
        radius = (INITIAL_RADIUS / VOTE_SCALE) ** 2
        constant = sharpness * (radius - centre.square().sum(dim=1, keepdim=True)) + bias
        return torch.cat([weights, 2.0 * sharpness * centre, -sharpness], dim=1), constant
