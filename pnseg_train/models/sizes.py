"""The sizes of the two networks, as data: B, L, H as in the paper, and nano for a laptop's CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pnseg_runtime.errors import PnsegError
from pnseg_train.models.backbones import ConvNeXtFeatures, Lite0Features
from pnseg_train.models.conv_encoder import ConvImageEncoder
from pnseg_train.models.mask_decoder import VotingMaskDecoder
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor, sam_prompt_encoder, sam_segmentor
from pnseg_train.models.shared import EncoderPyramid
from pnseg_train.models.vit import ResizedImageEncoder


@dataclass(frozen=True)
class PrompterSize:
    """Builds a backbone (with or without ImageNet weights) and names the widths of the heads: points', region's.

    ``fixed_grid``: see :class:`pnseg_train.models.prompter.Prompter`; B, L and H are the paper's.
    """

    backbone: Callable[[bool], nn.Module]
    channels: int
    region_channels: int
    fixed_grid: bool = False


@dataclass(frozen=True)
class VitSize:
    """SAM's ViT: width, blocks, heads, blocks with global attention."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]


@dataclass(frozen=True)
class ConvSize:
    """nano's segmentor: embedding channels, transformer MLP, detail channels, position frequency."""

    width: int
    mlp_width: int
    detail: int
    frequency: float


def _convnext_small(pretrained: bool) -> nn.Module:
    network = ConvNeXtFeatures()
    if pretrained:
        import timm

        try:
            published = timm.create_model("convnext_small", pretrained=True).state_dict()
        except Exception as error:  # of the hub's, the network's or the disk's making
            raise PnsegError(
                f"the ImageNet weights of ConvNeXt-S cannot be fetched ({type(error).__name__}: {error}); "
                "give a checkpoint with --init, or --no-pretrained to start without them."
            ) from error
        network.load_state_dict({k: v for k, v in published.items() if not k.startswith("head.")})
    return network


def _lite0(pretrained: bool) -> nn.Module:
    return Lite0Features(pretrained=pretrained)


_CONVNEXT = PrompterSize(_convnext_small, 256, 256)

PROMPTER_SIZES: dict[str, PrompterSize] = {
    "B": _CONVNEXT,
    "L": _CONVNEXT,
    "H": _CONVNEXT,
    "nano": PrompterSize(_lite0, 80, 32, fixed_grid=True),
}

SEGMENTOR_SIZES: dict[str, VitSize | ConvSize] = {
    "B": VitSize(768, 12, 12, (2, 5, 8, 11)),
    "L": VitSize(1024, 24, 16, (5, 11, 17, 23)),
    "H": VitSize(1280, 32, 16, (7, 15, 23, 31)),
    "nano": ConvSize(width=128, mlp_width=512, detail=16, frequency=2.0),
}


def build_prompter(
    size: str, *, levels: int, spacing: int, num_classes: int, pretrained: bool = False, shared: bool = False
) -> Prompter:
    """A prompter of a named size; L, λ and C are the dataset's.

    ``shared`` makes one that reads the segmentor's image encoder instead of a backbone of its own.

    Raises:
        KeyError: an unknown size.
    """
    spec = PROMPTER_SIZES[size]
    backbone = EncoderPyramid(build_image_encoder(size, pretrained)) if shared else spec.backbone(pretrained)
    return Prompter(backbone, spec.channels, levels, spacing, num_classes, spec.region_channels, spec.fixed_grid)


def build_segmentor(size: str, *, pretrained: bool = False, num_classes: int = 0) -> Segmentor:
    """A segmentor of a named size. ``pretrained`` concerns nano's backbone; SAM's weights are imported.

    Without them, B, L and H are random; ``pnseg train`` refuses that unless it is asked for.

    Args:
        num_classes: C if the segmentor tells the classes, 0 if the prompter does.

    Raises:
        KeyError: an unknown size.
    """
    spec = SEGMENTOR_SIZES[size]
    if isinstance(spec, VitSize):
        return sam_segmentor(spec.embed_dim, spec.depth, spec.num_heads, spec.global_attn_indexes, num_classes)
    return Segmentor(
        build_image_encoder(size, pretrained),
        sam_prompt_encoder(spec.width, spec.frequency),
        VotingMaskDecoder(spec.width, spec.mlp_width, spec.detail, num_classes),
    )


def backbone_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network's image backbone, which has been trained before: SAM's whole image encoder too.

    nano's first norm is left out: its weights and their recorded figures come from runs that trained it as the heads.
    """
    kinds = (ConvNeXtFeatures, Lite0Features, ResizedImageEncoder)
    backbones = (module for module in network.modules() if isinstance(module, kinds))
    named = (pair for module in backbones for pair in module.named_parameters())
    return [parameter for name, parameter in named if not name.startswith("bn1.")]


def build_image_encoder(size: str, pretrained: bool = False) -> nn.Module:
    """The segmentor's image encoder alone; ``pretrained`` as for :func:`build_segmentor`."""
    spec = SEGMENTOR_SIZES[size]
    if isinstance(spec, VitSize):
        return ResizedImageEncoder(spec.embed_dim, spec.depth, spec.num_heads, spec.global_attn_indexes)
    return ConvImageEncoder(spec.width, spec.detail, pretrained)
