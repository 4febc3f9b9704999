"""Which exact rewrites a graph is exported with, as data.

Every rewrite changes how something is computed and nothing of what: see ``docs/graphs.md``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rewrites:
    """Choices of an export.

    Attributes:
        padding_free: SAM's windowed blocks without their padding
            (:mod:`pnseg_export.graphs.window_attention`).
        shared_decoder: the first two-way layer's projections of the image once an image, those of
            the other layers on the side with fewer tokens, and one mask token
            (:mod:`pnseg_export.graphs.two_way`).
        vote_product: nano's votes and details as one matrix product
            (:mod:`pnseg_export.graphs.votes`). It takes differences of squares, which half
            precision cannot afford.
    """

    padding_free: bool = True
    shared_decoder: bool = True
    vote_product: bool = True


#: Where the graphs are to run → what pays there.
TARGETS = {
    "cpu": Rewrites(),
    "gpu": Rewrites(vote_product=False),
    "plain": Rewrites(padding_free=False, shared_decoder=False, vote_product=False),
}
