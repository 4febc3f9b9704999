"""The largest inputs that a bundle's engines take, and options that keep to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from sys import maxsize

from pnseg_runtime.bundle import PROMPT_INPUTS
from pnseg_runtime.options import COARSEST_STRIDE, Options

#: An input's name → the largest shape that a profile of an engine takes.
Largest = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Limits:
    """What networks take at most.

    Attributes:
        windows: in a batch.
        prompts: in a batch.
        side: of the prompter's image, px.
    """

    windows: int
    prompts: int
    side: int

    @classmethod
    def of(cls, profiles: Mapping[str, Sequence[Largest]]) -> Limits:
        """Those of engines; what has no profile takes anything.

        Args:
            profiles: network → the largest shapes of each of its profiles.
        """
        decoder = profiles["decoder"]
        held = (min(shape[0] for name, shape in each.items() if name not in PROMPT_INPUTS) for each in decoder)
        return cls(
            windows=min(max(held, default=maxsize), max((e["image"][0] for e in profiles["encoder"]), default=maxsize)),
            prompts=max((each["point_coords"][0] for each in decoder), default=maxsize),
            side=max((min(each["image"][-2:]) for each in profiles["prompter"]), default=maxsize),
        )

    def within(self, options: Options) -> Options:
        """The options, with batches and macro-tiles that are no larger than this."""
        options = replace(
            options,
            window_batch=min(options.window_batch, self.windows),
            prompt_batch=min(options.prompt_batch, self.prompts),
        )
        if options.macro_tile <= self.side:
            return options
        tile, quarter = (part // COARSEST_STRIDE * COARSEST_STRIDE for part in (self.side, self.side // 4))
        return replace(options, macro_tile=tile, macro_margin=min(options.context, quarter))


#: What is used where nobody chooses: for backends that have to know the ranges of shapes beforehand.
USUAL = Limits(Options().window_batch, Options().prompt_batch, Options().macro_tile)
