"""Options that several training verbs share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import yaml

from pnseg_runtime.errors import PnsegError
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
    help="Data set in any layout that 'pnseg data check' knows; may be repeated.",
)


def assignment(text: str) -> tuple[str, object]:
    """A field and its value of ``--set FIELD=VALUE``.

    Raises:
        PnsegError: no such pair, or a value that is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise PnsegError(f"--set {text}: expected FIELD=VALUE, such as prompter.plan.steps=500.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise PnsegError(f"--set {text}: the value is not YAML; quote it, or close its brackets.") from error
