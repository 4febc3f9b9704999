"""Which exact rewrites a pair of graphs is exported with, as data.

A rewrite changes how something is computed and nothing of what: see ``docs/graphs.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rewrites:
    """Choices of an export.

    Attributes:
        convnext: what stands between the blocks of the prompter's ConvNeXt: ``"tokens"``, rows of tokens
            (:mod:`pnseg_export.graphs.convnext`); ``"maps"``, as timm has it.
        windows: SAM's windowed blocks: ``"apart"``, each window's real tokens for themselves, the least
            arithmetic (:mod:`pnseg_export.graphs.window_attention`); ``"together"``, all in one attention, the
            fewest kernels (:mod:`pnseg_export.graphs.grid_attention`), both with positions resized beforehand;
            ``"padded"``, the trained encoder's own code.
        shared_decoder: the first two-way layer's projections of the image once an image, the other
            layers' on the side of the tokens, one mask token
            (:mod:`pnseg_export.graphs.two_way`).
        few_tokens: the softmax with which image tokens read a prompt's few: ``"steps"`` along the image, which
            fill a CPU's vectors, or one ``"softmax"``, which TensorRT joins with the products around it
            (:mod:`pnseg_export.graphs.absorbed_attention`).
        votes: how nano's votes and details refine a mask (:mod:`pnseg_export.graphs.votes`):
            ``"product"``, one matrix product over all prompts, which subtracts large squares and so
            is for float32 alone; ``"gathered"``, from a copy of its window's maps for each prompt;
            ``"plain"``, the trained decoder's own code.
    """

    convnext: Literal["tokens", "maps"] = "tokens"
    windows: Literal["apart", "together", "padded"] = "apart"
    shared_decoder: bool = True
    few_tokens: Literal["softmax", "steps"] = "steps"
    votes: Literal["product", "gathered", "plain"] = "product"


CPU = Rewrites()
GPU = Rewrites(windows="together", few_tokens="softmax", votes="gathered")
PLAIN = Rewrites(convnext="maps", windows="padded", shared_decoder=False, votes="plain")

#: Where the graphs are to run → what pays there; ``plain`` is the trained networks as they are.
TARGETS = {"cpu": CPU, "gpu": GPU, "plain": PLAIN}
