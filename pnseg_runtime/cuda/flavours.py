"""The libraries that run engines, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flavour:
    """A library that runs engines.

    Attributes:
        name: in a bundle's manifest.
        label: for people.
        module: what is imported.
        packages: names that it is installed under, the usual one first.
        extra: of pnseg, which brings it.
        compiles: whether it compiles kernels when an engine runs.
    """

    name: str
    label: str
    module: str
    packages: tuple[str, ...]
    extra: str
    compiles: bool = False

    @property
    def install(self) -> str:
        """What gives it."""
        return f'pip install "pnseg[{self.extra}]"'


FLAVOURS = {
    flavour.name: flavour
    for flavour in [
        Flavour("tensorrt", "TensorRT", "tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt"),
        Flavour(
            "rtx",
            "TensorRT for RTX",
            "tensorrt_rtx",
            ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
            "rtx",
            compiles=True,
        ),
    ]
}
