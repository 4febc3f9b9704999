"""Types of values and options on the command line that the verbs of several packages share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from pnseg_runtime.bundle import Guess
from pnseg_runtime.options import LEAST_MPP, MOST_MPP, Assignment, Options

F = TypeVar("F", bound=Callable[..., Any])

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


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Options one below the other, in the order of the help."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


#: How nuclei are looked for: the fields of :class:`pnseg_runtime.options.Options` that every verb which predicts has.
search_options = together(
    click.option(
        "--assignment",
        type=click.Choice(get_args(Assignment)),
        default=Options.assignment,
        show_default=True,
        help="Decode a point in the window that holds it most centrally, or in all that hold it.",
    ),
    click.option(
        "--negatives",
        type=click.IntRange(0),
        metavar="K",
        help="Negative prompts a nucleus [default: the model's].",
    ),
    click.option(
        "--sensitivity",
        type=float,
        help="More finds more nuclei, and more that are none [default: the model's].",
    ),
    click.option(
        "--colour-blur",
        type=click.FloatRange(0, 8),
        metavar="PX",
        help="Blur differences of colour before the networks look; more makes nuclei depend less on a file's "
        "compression [default: the model's].",
    ),
    click.option(
        "--enlarged-blur",
        type=click.FloatRange(0, 8),
        nargs=2,
        default=None,
        metavar="PX PX",
        help="Blur brightness and differences of colour besides, before the prompter looks, where the microns per "
        "pixel are more than the model's, for each time that the image is enlarged; 0 0 for none [default: "
        "the model's].",
    ),
    click.option(
        "--tta",
        is_flag=True,
        help="Average six flipped and turned views of each window: steadier, and about six times the segmentor's work.",
    ),
    click.option(
        "--tta-points",
        is_flag=True,
        help="Take points on which six flipped and turned views agree: more is found on tissue that the model has "
        "not been trained on, at six times the prompter's work.",
    ),
)

overlap_option = click.option(
    "--overlap", type=click.IntRange(0, 255), metavar="PX", help="Of neighbouring windows [default: the model's]."
)


def given(chosen: dict[str, Any]) -> dict[str, Any]:
    """Of the options those that differ from what :class:`pnseg_runtime.options.Options` is without them.

    Raises:
        click.UsageError: one that makes no sense.
    """
    found = {name: value for name, value in chosen.items() if value != getattr(Options, name)}
    try:
        Options(**found)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return found
