"""Options that several training verbs share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from pnseg_runtime.params import Microns


class Finite(click.FloatRange):
    """A number of a range, and neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        return found if math.isfinite(found) else self.fail(f"{value} is no number.", param, ctx)


mpp_option = click.option(
    "--mpp",
    type=Microns(),
    help="Microns per pixel of images that do not state theirs [default: taken as the model's].",
)

data_option = click.option(
    "--data",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    required=True,
    help="Data set in any layout that 'pnseg data check' knows; may be given several times.",
)
