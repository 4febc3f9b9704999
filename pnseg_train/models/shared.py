"""One image encoder for both networks, trained end to end (the variant of the paper's supplement).

The segmentor's image encoder gives one embedding at stride 16. A simple pyramid (ViTDet) makes of
it the four strides that the prompter's necks expect.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.prompter import Prompter, PrompterOutput
from pnseg_train.models.segmentor import Prompts, Segmentor, SegmentorOutput


class SimplePyramid(nn.Module):
    """Features at strides 4, 8, 16 and 32 from an embedding at stride 16."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.to4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            nn.GroupNorm(1, width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, channels, 2, stride=2),
        )
        self.to8 = nn.ConvTranspose2d(width, channels, 2, stride=2)
        self.to16 = nn.Conv2d(width, channels, 1)
        self.to32 = nn.Conv2d(width, channels, 3, stride=2, padding=1)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        return [layer(embedding) for layer in (self.to4, self.to8, self.to16, self.to32)]


class EncoderPyramid(nn.Module):
    """An image encoder as the prompter's backbone."""

    def __init__(self, encoder: nn.Module, channels: int = 128):
        super().__init__()
        self.encoder = encoder
        self.channels = (channels,) * 4
        self.pyramid = SimplePyramid(embedding_width(encoder), channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.encoder(image)
        maps: list[Tensor] = self.pyramid(features.embedding if isinstance(features, ImageFeatures) else features)
        return maps


def embedding_width(encoder: nn.Module) -> int:
    """Channels of an image encoder's embedding: those of its last convolution before any finer head."""
    embed = getattr(encoder, "embed", None)
    if isinstance(embed, nn.Conv2d):
        return embed.out_channels
    neck = encoder.neck
    assert isinstance(neck, nn.Sequential)
    first = neck[0]
    assert isinstance(first, nn.Conv2d)
    return first.out_channels


class SharedPair(nn.Module):
    """Prompter and segmentor over one image encoder.

    The prompter's backbone is an :class:`EncoderPyramid`, whose encoder is replaced by the segmentor's.
    """

    def __init__(self, prompter: Prompter, segmentor: Segmentor):
        super().__init__()
        backbone = prompter.backbone.backbone
        assert isinstance(backbone, EncoderPyramid)
        backbone.encoder = segmentor.image_encoder
        self.prompter, self.segmentor = prompter, segmentor

    def encode(self, images: Tensor) -> ImageFeatures:
        """The features that both networks go on from."""
        return self.segmentor.encode(images)

    def propose(self, features: ImageFeatures, shape: tuple[int, int]) -> PrompterOutput:
        """The prompter's outputs on encoded images of a shape (H, W)."""
        backbone = self.prompter.backbone.backbone
        assert isinstance(backbone, EncoderPyramid)
        return self.prompter.propose(self.prompter.backbone.pyramids(backbone.pyramid(features.embedding)), shape)

    def decode(self, features: ImageFeatures, prompts: Prompts) -> SegmentorOutput:
        """The segmentor's masks on encoded images."""
        return self.segmentor.decode(features, prompts)

    @torch.no_grad()
    def parts(self) -> dict[str, nn.Module]:
        """Both networks by name, each whole with the image encoder."""
        return {"prompter": self.prompter, "segmentor": self.segmentor}
