"""SAM's two-way mask decoder, one mask a prompt, for prompts of several images in one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn

VOTE_SCALE = 16.0  # px; distances to a voted centroid are measured in it
INITIAL_RADIUS = 10.0  # px; the disc that an untrained decoder draws around a point


class DecodedPrompts(NamedTuple):
    """What the decoder makes of P prompts.

    Attributes:
        logits: (P, 4h, 4w) low-resolution mask logits.
        iou: (P,) predicted IoU.
        token: (P, C) mask token.
        class_logits: (P, classes) of the [cls] token; None without one.
    """

    logits: Tensor
    iou: Tensor
    token: Tensor
    class_logits: Tensor | None = None


def two_way_transformer(width: int, mlp_width: int) -> TwoWayTransformer:
    """SAM's decoder transformer: two layers, eight heads."""
    return TwoWayTransformer(depth=2, embedding_dim=width, num_heads=8, mlp_dim=mlp_width)


class PointMaskDecoder(MaskDecoder):
    """SAM's decoder in single-mask mode: only mask token 0 is turned into a mask.

    The embedding comes with one entry a prompt, already repeated from the image's.

    Args:
        num_classes: with any, a [cls] token stands behind the IoU and mask tokens, and an MLP turns it
            into the nucleus's class (paper Table 8).
    """

    def __init__(self, width: int = 256, mlp_width: int = 2048, spare_masks: int = 3, num_classes: int = 0):
        super().__init__(
            transformer_dim=width,
            transformer=two_way_transformer(width, mlp_width),
            num_multimask_outputs=spare_masks,
            iou_head_hidden_dim=width,
        )
        self.class_token = nn.Embedding(1, width) if num_classes else None
        self.class_head = MLP(width, width, num_classes, 3) if num_classes else None

    def decode(self, embedding: Tensor, positions: Tensor, prompts: Tensor) -> DecodedPrompts:
        """Masks of P prompts.

        Args:
            embedding: (P, C, h, w) with the dense prompt already added.
            positions: (1, C, h, w) positional encoding.
            prompts: (P, T, C) sparse prompt embeddings.
        """
        own = [self.iou_token.weight, self.mask_tokens.weight]
        own += [] if self.class_token is None else [self.class_token.weight]
        outputs = torch.cat(own).expand(prompts.shape[0], -1, -1)
        tokens, image = self.transformer(
            embedding, positions.expand_as(embedding), torch.cat([outputs, prompts], dim=1)
        )
        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(embedding.shape))
        mask_token = tokens[:, 1]
        weights = self.output_hypernetworks_mlps[0](mask_token)
        logits = torch.einsum("pc,pchw->phw", weights, upscaled)
        class_logits = None if self.class_head is None else self.class_head(tokens[:, outputs.shape[1] - 1])
        return DecodedPrompts(logits, self.iou_prediction_head(tokens[:, 0])[:, 0], mask_token, class_logits)


class VotingMaskDecoder(PointMaskDecoder):
    """The decoder of nano: SAM's low-resolution mask, refined by what every pixel votes for.

    The image encoder predicts, for every second pixel, the centroid of the nucleus it belongs to
    (its vote) and ``detail`` features. A prompt's mask token is turned into the weights of those
    features and into a kernel around the prompt: pixels that vote near it belong to it. An
    untrained decoder so draws a disc around each point, and learning starts from there instead
    of from an empty mask.
    """

    def __init__(self, width: int, mlp_width: int, detail: int, num_classes: int = 0):
        super().__init__(width, mlp_width, spare_masks=0, num_classes=num_classes)
        self.detail = detail
        self.kernel_mlp = MLP(width, width, detail + 4, 3)
        last = self.kernel_mlp.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def refine(self, logits: Tensor, token: Tensor, point: Tensor, votes: Tensor, detail: Tensor) -> Tensor:
        """Mask logits at stride 2.

        Args:
            logits: (P, h, w) of SAM's decoder.
            token: (P, C) mask token.
            point: (P, 2) the positive prompt, px.
            votes: (P, 2, 2h, 2w) voted centroids (x, y), px.
            detail: (P, D, 2h, 2w) features.
        """
        weights, shift, sharpness, bias = self.kernel_mlp(token).split([self.detail, 2, 1, 1], dim=1)
        centre = point + VOTE_SCALE * shift
        distance = ((votes - centre[:, :, None, None]) / VOTE_SCALE).square().sum(dim=1)
        sharpness = 4.0 * torch.exp(sharpness)[:, :, None]
        kernel = sharpness * ((INITIAL_RADIUS / VOTE_SCALE) ** 2 - distance) + bias[:, :, None]
        upsampled = F.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
        return upsampled + torch.einsum("pc,pchw->phw", weights, detail) + kernel

    @staticmethod
    def rate(logits: Tensor, correction: Tensor) -> Tensor:
        """Predicted IoU (P,): what a mask's own probabilities p promise, Σp² / Σ(2p − p²), and the head's correction.

        If each pixel belongs to the nucleus with probability p, these are the expected intersection
        and union of the soft mask with it. SAM's head alone would have to guess it from tokens that
        never see the refined mask.
        """
        probability = logits.detach().float().sigmoid()
        square = probability.square().sum((1, 2))
        return square / (2.0 * probability.sum((1, 2)) - square).clamp_min(1e-6) + correction
