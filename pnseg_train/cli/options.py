"""Options that several training verbs share."""

from __future__ import annotations

from pathlib import Path

import click

from pnseg_runtime.params import Microns

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
