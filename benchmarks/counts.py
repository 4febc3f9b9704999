"""Parameters and multiply-accumulates of a network, by our count and by the paper's.

Ours is what is computed: products and convolutions, attention's two products included, a transposed
convolution by the size of its input; parameters as they are stored. The counter of the paper's
Table 5 hooks modules, so it leaves out attention's products, which no module computes, and takes a
transposed convolution by the size of its output, stride² times what it computes; and SAM's positions
were cut to 16×16 tokens before. Counted so, every network here comes within 1% of what is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tiles import SIDE
from pnseg_train.models.vit import PATCH, ResizedImageEncoder

_PRODUCTS = {
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten._scaled_dot_product_efficient_attention,
    torch.ops.aten._scaled_dot_product_flash_attention,
    torch.ops.aten._scaled_dot_product_cudnn_attention,
    torch.ops.aten._scaled_dot_product_attention_math,
}


@dataclass(frozen=True)
class Counts:
    """Of one call of a network.

    Attributes:
        params, macs: as stored and computed.
        paper_params, paper_macs: the way in which the paper counts.
    """

    params: int
    macs: int
    paper_params: int
    paper_macs: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def count(network: nn.Module, call: Callable[[], object], times: int = 1) -> Counts:
    """Counts of what ``call`` does with a network.

    Args:
        network: whose parameters count, and whose modules are watched; may be on the device ``meta``.
        call: runs it once.
        times: how often it is run; multiplies the multiply-accumulates.
    """
    spread: list[int] = []
    hooks = [m.register_forward_hook(_excess(spread)) for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
    finally:
        for hook in hooks:
            hook.remove()
    macs = counter.get_total_flops() // 2
    by_kind = counter.get_flop_counts().get("Global", {})
    products = sum(flops for kind, flops in by_kind.items() if kind in _PRODUCTS) // 2
    params = sum(p.numel() for p in network.parameters())
    unused = sum(_beyond_16(m) for m in network.modules() if isinstance(m, ResizedImageEncoder))
    return Counts(params, macs * times, params - unused, (macs - products + sum(spread)) * times)


def _excess(found: list[int]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(module, nn.ConvTranspose2d)
        each = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        stride = module.stride[0] * module.stride[1]
        found.append(inputs[0].numel() * each * (stride - 1))

    return hook


def _beyond_16(encoder: ResizedImageEncoder) -> int:
    """Values of SAM's positions that 16×16 tokens do not need."""
    tokens = SIDE // PATCH
    _, height, width, channels = encoder.pos_embed.shape
    unused = (height * width - tokens * tokens) * channels
    for block in encoder.blocks:
        if not block.window_size:
            unused += sum(
                r.numel() - (2 * tokens - 1) * r.shape[1] for r in (block.attn.rel_pos_h, block.attn.rel_pos_w)
            )
    return int(unused)
