"""What an engine is built for, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pnseg_runtime.cuda.nvidia import RTX_ARCHITECTURES
from pnseg_runtime.errors import PnsegError

Flavour = Literal["rtx", "tensorrt"]

DEFAULT_TARGETS = ("rtx:sm80", "rtx:sm86", "rtx:sm89", "rtx:sm120")


@dataclass(frozen=True)
class Target:
    """A library and a GPU.

    Attributes:
        flavour: ``rtx`` (TensorRT for RTX) or ``tensorrt``.
        architecture: e.g. ``sm86``; empty for the GPU of this machine, which is all that classic TensorRT builds for.
    """

    flavour: Flavour
    architecture: str = ""


def parse_target(text: str) -> Target:
    """``rtx:sm86`` or ``tensorrt``.

    Raises:
        PnsegError: anything else, with what there is.
    """
    flavour, _, architecture = text.lower().partition(":")
    if flavour == "rtx" and architecture in RTX_ARCHITECTURES:
        return Target("rtx", architecture)
    if flavour == "tensorrt" and not architecture:
        return Target("tensorrt")
    known = ", ".join(f"rtx:{name}" for name in RTX_ARCHITECTURES)
    raise PnsegError(f"{text}: not a target of engines; choose {known} or tensorrt (for the GPU of this machine).")
