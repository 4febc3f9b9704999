"""CellViT (Hörst et al. 2024) on SAM's ViT-B: HoVer-Net's maps, decoded from four blocks of a transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.peers import CLASSES, Peer
from benchmarks.peers.hovernet import activate, finish, maps
from pnseg_train.models.sizes import SEGMENTOR_SIZES, VitSize
from pnseg_train.models.vit import ResizedImageEncoder, resize_positions

BRANCHES = {"nucleus": 2, "hover": 2, "classes": 1 + CLASSES}
#: Blocks whose output the decoders see, from 1.
TAKEN = (3, 6, 9, 12)
TISSUES = 19


class Encoder(ResizedImageEncoder):
    """SAM's image encoder, giving also what its blocks give on the way."""

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        x, taken = self.patch_embed(image), []
        x = x + resize_positions(self.pos_embed, x.shape[1:3])
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in TAKEN:
                taken.append(x.permute(0, 3, 1, 2))
        return self.neck(x.permute(0, 3, 1, 2)), taken


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """Twice the resolution."""
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


def up_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the resolution, then a convolution."""
    return nn.Sequential(up(inputs, outputs), conv(outputs, outputs))


class Branch(nn.Module):
    """A decoder of one kind of map."""

    def __init__(self, embedding: int, outputs: int) -> None:
        super().__init__()
        self.bottom = up(embedding, 512)
        self.steps = nn.ModuleList(
            [
                nn.Sequential(conv(1024, 512), conv(512, 512), conv(512, 512), up(512, 256)),
                nn.Sequential(conv(512, 256), conv(256, 256), up(256, 128)),
                nn.Sequential(conv(256, 128), conv(128, 128), up(128, 64)),
                nn.Sequential(conv(128, 64), conv(64, 64), nn.Conv2d(64, outputs, 1)),
            ]
        )

    def forward(self, x: Tensor, skips: list[Callable[[], Tensor]]) -> Tensor:
        x = self.bottom(x)
        for step, skip in zip(self.steps, skips, strict=True):
            x = step(torch.cat([skip(), x], dim=1))
        return x


class Network(nn.Module):
    """The network. As in the authors' own, every branch computes the skip connections anew."""

    def __init__(self) -> None:
        super().__init__()
        size = SEGMENTOR_SIZES["B"]
        assert isinstance(size, VitSize)
        width = size.embed_dim
        self.encoder = Encoder(width, size.depth, size.num_heads, size.global_attn_indexes)
        self.tissue = nn.Linear(256, TISSUES)
        self.skips = nn.ModuleList(
            [
                up_conv(width, 512),
                nn.Sequential(up_conv(width, 512), up_conv(512, 256)),
                nn.Sequential(up_conv(width, 512), up_conv(512, 256), up_conv(256, 128)),
                nn.Sequential(conv(3, 32), conv(32, 64)),
            ]
        )
        self.branches = nn.ModuleDict({name: Branch(width, outputs) for name, outputs in BRANCHES.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        neck, (first, second, third, last) = self.encoder(image)
        inputs = (third, second, first, image)
        skips: list[Callable[[], Tensor]] = [
            lambda skip=skip, x=x: skip(x)  # type: ignore[misc]
            for skip, x in zip(self.skips, inputs, strict=True)
        ]
        found = {name: branch(last, skips) for name, branch in self.branches.items()}
        return {**found, "tissue": self.tissue(neck.mean(dim=(2, 3)))}


def peer() -> Peer:
    """The method."""
    return Peer(
        build=Network,
        activate=activate,
        maps=maps,
        finish=finish,
        outputs=(*BRANCHES, "tissue"),
        origin="network from the paper, on SAM's encoder; post-processing of cellseg-models-pytorch",
        difference=(
            "the paper counts positions for 16×16 tokens, no products of "
            "attention, and transposed convolutions by their output"
        ),
    )
