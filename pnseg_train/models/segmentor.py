"""The segmentor: SAM, one mask for each point prompt (paper section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.mask_decoder import PointMaskDecoder, VotingMaskDecoder
from pnseg_train.models.vit import PATCH, ResizedImageEncoder

WINDOW = 256  # px, the segmentor's input side


class Prompts(NamedTuple):
    """P prompts, each of 1 + K points.

    Attributes:
        coords: (P, 1 + K, 2) float32 (x, y), px in the window, the positive point first.
        labels: (P, 1 + K) float32: 1 positive, 0 negative, -1 missing.
        image_index: (P,) int64, the image a prompt belongs to.
    """

    coords: Tensor
    labels: Tensor
    image_index: Tensor


class SegmentorOutput(NamedTuple):
    """What the segmentor gives for P prompts.

    Attributes:
        mask_logits: (P, m, m) at the decoder's resolution.
        iou: (P,) predicted IoU.
        class_logits: (P, C) if the segmentor tells classes (a [cls] token), otherwise None.
    """

    mask_logits: Tensor
    iou: Tensor
    class_logits: Tensor | None = None


class Segmentor(nn.Module):
    """Image encoder, SAM's prompt encoder, SAM's two-way mask decoder.

    Parameter names are SAM's, so that Meta's and the published checkpoints load unchanged.
    """

    def __init__(self, image_encoder: nn.Module, prompt_encoder: PromptEncoder, mask_decoder: PointMaskDecoder):
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def forward(self, images: Tensor, prompts: Prompts) -> SegmentorOutput:
        """Masks of P prompts on normalised images (B, 3, 256, 256)."""
        return self.decode(self.encode(images), prompts)

    def encode(self, images: Tensor) -> ImageFeatures:
        """What does not depend on a prompt.

        Args:
            images: (B, 3, 256, 256) float32, normalised.

        Returns:
            float32 features: the embedding (B, C, 16, 16), and of nano the votes (B, 2, 128, 128) and the detail
            (B, D, 128, 128).
        """
        features = self.image_encoder(images)
        return features if isinstance(features, ImageFeatures) else ImageFeatures(features)

    def decode(self, features: ImageFeatures, prompts: Prompts) -> SegmentorOutput:
        """Masks of P prompts on encoded images."""
        own = features.repeat(prompts.image_index)
        embedding = own.embedding + self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        logits, iou, token, class_logits = self.mask_decoder.decode(
            embedding, self.prompt_encoder.get_dense_pe(), self.embed_points(prompts.coords, prompts.labels)
        )
        if isinstance(self.mask_decoder, VotingMaskDecoder) and own.votes is not None and own.detail is not None:
            logits = self.mask_decoder.refine(logits, token, prompts.coords[:, 0], own.votes, own.detail)
            iou = self.mask_decoder.rate(logits, iou)
        return SegmentorOutput(logits, iou, class_logits)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """SAM's sparse prompt embedding, with the point that SAM adds when no box is given.

        Args:
            coords: (P, 1 + K, 2) float32 (x, y), px in the window.
            labels: (P, 1 + K) float32: 1 positive, 0 negative, -1 missing.

        Returns:
            (P, 2 + K, C) float32.
        """
        sparse, _ = self.prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        embedded: Tensor = sparse
        return embedded


def full_size(logits: Tensor, size: int = WINDOW) -> Tensor:
    """Mask logits (P, m, m) at the window's resolution (P, 256, 256)."""
    return F.interpolate(logits[:, None].float(), size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def sam_prompt_encoder(width: int = 256, frequency: float = 1.0) -> PromptEncoder:
    """SAM's prompt encoder for 256×256 windows.

    Args:
        width: embedding channels.
        frequency: factor on the random spatial frequencies; 1 is SAM's, whose positional
            encodings tell points apart at about 20 px in a window of 256.
    """
    tokens = WINDOW // PATCH
    encoder = PromptEncoder(
        embed_dim=width, image_embedding_size=(tokens, tokens), input_image_size=(WINDOW, WINDOW), mask_in_chans=16
    )
    with torch.no_grad():
        encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(frequency)
    return encoder


def sam_segmentor(
    embed_dim: int, depth: int, num_heads: int, global_attn_indexes: tuple[int, ...], num_classes: int = 0
) -> Segmentor:
    """A segmentor of SAM's architecture with a ViT of the given size; with classes, it tells them too."""
    return Segmentor(
        ResizedImageEncoder(embed_dim, depth, num_heads, global_attn_indexes),
        sam_prompt_encoder(),
        PointMaskDecoder(num_classes=num_classes),
    )
