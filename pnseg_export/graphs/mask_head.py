"""From the two-way transformer's tokens to one mask a prompt and its predicted IoU.

SAM doubles the image tokens twice by transposed convolutions of kernel and stride 2. In such a
convolution every token is on its own: it becomes 2×2 pixels by a matrix product. So the pixels can
stay grouped by token, channels last, until the channels are summed into a mask; only that one
channel is then put into raster order. Of SAM's hyper-networks and IoU outputs only those of mask
token 0 are there.
"""

from __future__ import annotations

import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn


class PixelLinear(nn.Module):
    """A transposed convolution of kernel and stride 2 on tokens: (n, C) → (4·n, D), a token's pixels by rows."""

    def __init__(self, convolution: nn.ConvTranspose2d):
        super().__init__()
        weight = convolution.weight.detach()  # C, D, 2, 2
        assert weight.shape[2:] == tuple(convolution.stride) == (2, 2)
        assert convolution.bias is not None
        self.channels = weight.shape[1]
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).clone())
        self.register_buffer("bias", convolution.bias.detach().repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).reshape(-1, self.channels)


class MaskHead(nn.Module):
    """Mask logits and predicted IoU of mask token 0.

    Args:
        decoder: SAM's mask decoder.
        side: image tokens a side.
    """

    def __init__(self, decoder: MaskDecoder, side: int):
        super().__init__()
        first, norm, activation, second, _ = decoder.output_upscaling
        assert isinstance(norm, LayerNorm2d)
        self.first, self.norm, self.second, self.activation = PixelLinear(first), norm, PixelLinear(second), activation
        self.hyper_network = decoder.output_hypernetworks_mlps[0]
        self.iou_layers = decoder.iou_prediction_head.layers
        self.side = side

    def forward(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits (P, 4·side, 4·side) and predicted IoU (P,).

        Args:
            tokens: (P, T, C), IoU token and mask token 0 first.
            image: (P, side², C) image tokens.
        """
        pixels = self.first(image.flatten(0, 1))
        pixels = F.layer_norm(pixels, pixels.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps)
        pixels = self.activation(self.second(self.activation(pixels)))
        weights = self.hyper_network(tokens[:, 1])
        logits = pixels.reshape(-1, 16 * self.side**2, weights.shape[1]) @ weights[:, :, None]
        return raster(logits, self.side), self._iou(tokens[:, 0])

    def _iou(self, token: Tensor) -> Tensor:
        *hidden, last = self.iou_layers
        for layer in hidden:
            token = F.relu(layer(token))
        return F.linear(token, last.weight[:1], last.bias[:1])[:, 0]


def raster(pixels: Tensor, side: int) -> Tensor:
    """Pixels (P, side²·4·4) grouped by token and by 2×2 within it, in raster order: (P, 4·side, 4·side)."""
    grouped = pixels.reshape(-1, side, side, 2, 2, 2, 2)  # y, x, then row and column at each doubling
    return grouped.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * side, 4 * side)
