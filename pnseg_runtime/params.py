"""Types of values on the command line that the verbs of several packages share."""

from __future__ import annotations

from typing import Any, Literal

import click

#: In place of microns per pixel: what the nuclei suggest, see :func:`pnseg_runtime.plausible.at_likely_mpp`.
LIKELY: Literal["auto"] = "auto"
MppChoice = float | Literal["auto"] | None


class Mpp(click.FloatRange):
    """Microns per pixel that images can have, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(0.05, 5)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return LIKELY if value == LIKELY else super().convert(value, param, ctx)
