"""Options that several verbs which make graphs have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from pnseg_export.precision.feeds import SAMPLES
from pnseg_export.precision.variants import Reduced

F = TypeVar("F", bound=Callable[..., Any])


def tiles_option(purpose: str) -> Callable[[F], F]:
    """``--tiles``; ``purpose`` says what the images are for."""
    return click.option(
        "--tiles",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=SAMPLES,
        help=f"Folder of real images{purpose} [default: the sample images].",
    )


def precisions_option(description: str, required: bool = False) -> Callable[[F], F]:
    """``--precision``, which may be repeated; passed on as ``precisions``."""
    return click.option(
        "--precision",
        "precisions",
        type=click.Choice(list(get_args(Reduced))),
        multiple=True,
        required=required,
        help=f"{description}; may be repeated.",
    )
