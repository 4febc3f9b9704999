"""What a network on the GPU is to the pipeline, and which shapes it takes.

An :class:`Engine` knows its tensors; an :class:`Execution` of it runs for one thread at a time, on addresses in device
memory and on a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pnseg_runtime.errors import BackendError

Shape = tuple[int, ...]
#: An input's name → the smallest and the largest shape.
Profile = dict[str, tuple[Shape, Shape]]
#: Bytes → the address of that much memory on the GPU, or more. Executions on one stream share it: they run one by one.
Scratch = Callable[[int], int]


class Execution(Protocol):
    """A network that is ready to run, for one thread at a time."""

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the inputs' shapes; returns the outputs'."""

    def run(self, addresses: Mapping[str, int]) -> None:
        """Put the network on its stream, with the address of every input and output."""


class Engine(Protocol):
    """A network on the GPU.

    Attributes:
        inputs: name → element type.
        outputs: likewise.
        profiles: for each optimisation profile, an input's name → the smallest and the largest shape it takes.
    """

    inputs: dict[str, np.dtype[Any]]
    outputs: dict[str, np.dtype[Any]]
    profiles: list[Profile]

    def execution(self, stream: int, scratch: Scratch, captured: bool) -> Execution:
        """A new execution; engines are shared by threads, executions are not.

        Args:
            stream: handle of the stream that it runs on.
            scratch: gives the memory for what is between the network's layers; asked whenever it runs.
            captured: whether runs are captured into graphs, which hold for as long as nothing of theirs is changed.
        """


@dataclass(frozen=True)
class Engines:
    """A bundle's three networks on the GPU."""

    prompter: Engine
    encoder: Engine
    decoder: Engine


def profile_of(profiles: Sequence[Profile], shapes: Mapping[str, Shape], path: Path) -> int:
    """The first profile that takes all shapes.

    Args:
        profiles: of an engine.
        shapes: of its inputs.
        path: the engine's, named in errors.

    Raises:
        BackendError: none does; with what the engine takes.
    """
    for index, profile in enumerate(profiles):
        if all(_within(shape, *profile[name]) for name, shape in shapes.items()):
            return index
    taken = {
        name: [profile[name] for profile in profiles]
        for name, shape in shapes.items()
        if not any(_within(shape, *profile[name]) for profile in profiles)
    }
    if not taken:
        told = ", ".join(f"{name} {times(shape)}" for name, shape in shapes.items())
        raise BackendError(f"{path}: no profile of the engine takes all of {told}; build it with wider profiles.")
    name, ranges = next(iter(taken.items()))
    told = " or ".join(f"{times(least)} to {times(most)}" for least, most in ranges)
    fits = any(least[0] <= shapes[name][0] <= most[0] for least, most in ranges)
    remedy = (
        "take as many negative prompts as the bundle says, since engines are built for no more"
        if name in {"point_coords", "point_labels"} and fits
        else "take smaller images or batches, or build it for larger ones (pnseg build --side, --batches, --prompts)"
    )
    raise BackendError(f"{path}: the engine takes no {name} of {times(shapes[name])}, but {told}; {remedy}.")


def largest_shapes(profiles: Sequence[Profile]) -> list[dict[str, Shape]]:
    """For each profile, an input's name → the largest shape it takes."""
    return [{name: largest for name, (_, largest) in profile.items()} for profile in profiles]


def times(shape: Shape) -> str:
    """A shape as people write it."""
    return "×".join(map(str, shape))


def _within(shape: Shape, smallest: Shape, largest: Shape) -> bool:
    return len(shape) == len(smallest) and all(
        least <= side <= most for least, side, most in zip(smallest, shape, largest, strict=True)
    )
