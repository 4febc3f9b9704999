"""Networks with random weights, positions and biases, small enough to compare on a CPU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import WINDOW, Prompts, Segmentor, sam_segmentor
from pnseg_train.models.sizes import SEGMENTOR_SIZES, VitSize, build_prompter, build_segmentor

SIZES = tuple(SEGMENTOR_SIZES)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give what starts at zero or one (biases, norms, relative positions) values that show in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 or "pos" in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@cache
def segmentor(size: str) -> Segmentor:
    """nano whole; B, L and H in width, with three blocks of which one is global. Not to be changed."""
    torch.manual_seed(0)
    spec = SEGMENTOR_SIZES[size]
    if isinstance(spec, VitSize):
        network = sam_segmentor(spec.embed_dim, 3, spec.num_heads, (1,))
        randomised(network)
        return network
    network = build_segmentor(size)
    with torch.no_grad():  # untrained, every prompt would get the same disc
        last = network.mask_decoder.kernel_mlp.layers[-1]
        last.weight.normal_(std=0.02)
        last.bias.normal_(std=0.3)
    return network.eval()


@cache
def prompter() -> Prompter:
    """nano's, of two classes. Not to be changed."""
    torch.manual_seed(0)
    return build_prompter("nano", levels=3, spacing=8, num_classes=2).eval()


@cache
def network(name: str) -> Segmentor:
    """nano's segmentor, or a SAM of two small blocks. Not to be changed."""
    if name == "nano":
        return segmentor("nano")
    torch.manual_seed(0)
    small = sam_segmentor(64, 2, 2, (1,))
    randomised(small)
    return small


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, WINDOW, WINDOW, generator=torch.Generator().manual_seed(seed))


def prompts(count: int, windows: int, points: int = 2, seed: int = 0) -> Prompts:
    """Random points, one positive each, some negatives missing, spread over the windows out of order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, points)
    labels[:, 0] = 1
    if points > 1:
        labels[::3, -1] = -1
    return Prompts(
        WINDOW * torch.rand(count, points, 2, generator=generator),
        labels,
        torch.randint(0, windows, (count,), generator=generator),
    )
