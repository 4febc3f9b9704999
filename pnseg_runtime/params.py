"""Types of values on the command line that the verbs of several packages share."""

from __future__ import annotations

import math
from typing import Any, get_args

import click

from pnseg_runtime.bundle import Guess
from pnseg_runtime.options import LEAST_MPP, MOST_MPP

#: Microns per pixel; for images that state none, a guess; None for the guess that the bundle names.
MppChoice = float | Guess | None


def settled(choice: MppChoice, usual: Guess) -> tuple[float | None, Guess]:
    """The microns per pixel that were chosen, None if none were, and the guess for images that state none.

    Args:
        usual: the guess that the bundle names.
    """
    if isinstance(choice, str):
        return None, choice
    return (None, usual) if choice is None else (choice, "model")


class Microns(click.FloatRange):
    """Microns per pixel that images can have."""

    #: What is taken, for whoever gives something else.
    taken = "a number with a decimal point"

    def __init__(self) -> None:
        super().__init__(LEAST_MPP, MOST_MPP)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            is_nan = math.isnan(float(value))
        except ValueError:
            self.fail(f"{value} is not {self.taken}.", param, ctx)
        return self.fail(f"{value} is no number.", param, ctx) if is_nan else super().convert(value, param, ctx)


class Mpp(Microns):
    """Microns per pixel that images can have, or a guess."""

    taken = f"{Microns.taken}, {' or '.join(get_args(Guess))}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in get_args(Guess) else super().convert(value, param, ctx)
