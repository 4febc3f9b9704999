"""The options that every verb which predicts has: the model, what runs it, and how it looks for nuclei."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from pnseg_runtime.cuda.nvidia import find_driver
from pnseg_runtime.params import search_options, together
from pnseg_runtime.sessions import AUTO, BACKENDS, CUDA, NO_SESSION, PRECISIONS

F = TypeVar("F", bound=Callable[..., Any])


class Backend(click.Choice[str]):
    """The name of a backend.

    Args:
        images: whether the verb predicts whole images, so that it has ``cuda`` too.
    """

    def __init__(self, images: bool) -> None:
        super().__init__([AUTO, *BACKENDS, *([CUDA] if images else [])])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == CUDA and CUDA not in self.choices:
            self.fail(NO_SESSION, param, ctx)
        return super().convert(value, param, ctx)


def bundle_option(function: F) -> F:
    """``--bundle``."""
    return click.option(
        "--bundle", default="nano", show_default=True, help="A shipped bundle's name or a bundle's folder."
    )(function)


def output_options(kinds: Collection[str]) -> Callable[[F], F]:
    """``--out`` and ``--only``, the latter of these kinds; passed on as ``folder`` and ``kinds``."""

    def chosen(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        unknown = [kind for kind in found if kind not in kinds]
        if unknown or not found:
            named = ", ".join(unknown) or "an empty list"
            raise click.BadParameter(f"{named} is no kind of output; choose from {', '.join(kinds)}.", ctx, param)
        return found

    return together(
        click.option(
            "--out",
            "folder",
            default="pnseg-out",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Folder for results.",
        ),
        click.option(
            "--only",
            "kinds",
            callback=chosen,
            metavar="KIND,...",
            default=",".join(kinds),
            show_default=True,
            help="Kinds of output to write.",
        ),
    )


def prediction_options(images: bool) -> Callable[[F], F]:
    """What runs the networks, and how they look for nuclei.

    Args:
        images: whether the verb predicts whole images, so that it has the backend ``cuda`` too.
    """
    whole = f" {CUDA} is the same with everything else on the GPU too." if images else ""
    return together(
        click.option(
            "--backend",
            type=Backend(images),
            default="onnxruntime",
            show_default=True,
            help="What runs the networks; auto picks the fastest that works and says why, tensorrt runs the bundle's "
            f"engines on the GPU.{whole}",
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            help="What the networks compute in, of what bundle and backend have "
            "[default: float32; of engines, what they were built in].",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="CPU threads [default: the physical cores, or a container's quota].",
        ),
        search_options,
    )


def tell_choice(reason: str, passed_over: tuple[str, ...]) -> None:
    """Say on standard error what ``auto`` has chosen; where an NVIDIA driver is, also why it is nothing else."""
    click.echo(f"Backend: {reason}", err=True)
    if find_driver().error is not None:
        for sentence in passed_over:
            click.echo(f"  passed over {sentence}", err=True)
