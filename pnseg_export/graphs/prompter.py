"""The prompter as a graph: image → points, class logits, region logits."""

from __future__ import annotations

from torch import Tensor, nn

from pnseg_export.graphs.axes import Tensors
from pnseg_export.graphs.convnext import TokenConvNeXt
from pnseg_export.graphs.rewrites import CPU, Rewrites
from pnseg_train.models.backbones import ConvNeXtFeatures
from pnseg_train.models.prompter import Prompter, PrompterOutput, PyramidBackbone


class PrompterGraph(nn.Module):
    """``image`` (B, 3, H, W) → ``points`` (B, M, 2), ``class_logits`` (B, M, C + 1), ``region_logits`` (B, 1, H, W).

    H and W are multiples of 8 from 32 on: the reference implementation pads to a multiple of λ.
    """

    def __init__(self, prompter: Prompter, rewrites: Rewrites = CPU):
        super().__init__()
        self.inputs: Tensors = {"image": ["batch", 3, "height", "width"]}
        self.outputs: Tensors = {
            "points": ["batch", "anchors", 2],
            "class_logits": ["batch", "anchors", prompter.num_classes + 1],
            "region_logits": ["batch", 1, "height", "width"],
        }
        self.prompter = OnTokens(prompter) if rewrites.convnext == "tokens" and _has_convnext(prompter) else prompter

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.prompter(image)
        return output.points, output.class_logits, output.region_logits


class OnTokens(nn.Module):
    """A prompter whose ConvNeXt keeps its features as tokens."""

    def __init__(self, prompter: Prompter):
        super().__init__()
        self.prompter = prompter
        self.backbone = TokenConvNeXt(prompter.backbone.backbone)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> PrompterOutput:
        pyramids = self.prompter.backbone.pyramids(self.backbone(image))
        return self.prompter.propose(pyramids, (image.shape[2], image.shape[3]))


def _has_convnext(prompter: Prompter) -> bool:
    return isinstance(prompter.backbone, PyramidBackbone) and isinstance(prompter.backbone.backbone, ConvNeXtFeatures)
