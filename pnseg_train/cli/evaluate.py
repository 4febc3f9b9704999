"""``pnseg evaluate``: a bundle, checkpoints or anyone's label maps against annotated images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from pnseg_runtime.documents import print_json
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.params import Mpp, MppChoice, given, overlap_option, search_options
from pnseg_train.cli.options import Finite, data_option
from pnseg_train.cli.scores import document_of, print_scores, protocol_of
from pnseg_train.evaluate import RADIUS
from pnseg_train.evaluate_sets import evaluate_run
from pnseg_train.finder import held_out

EXAMPLES = """
\b
Examples:
  pnseg evaluate nano --data TNBC --split val
  pnseg evaluate runs/nano/prompter/best runs/nano/segmentor/best --data DSB --data TNBC
  pnseg evaluate cellpose_masks/ --data Kumar --split test
  pnseg evaluate nano --data Kumar --points oracle --tta
  pnseg evaluate nano --data DSB --mpp model --tta
  pnseg evaluate --data PanNuke --fold 123:test=bundles/a --fold 213:test=bundles/b --fold 321:test=bundles/c
  pnseg evaluate nano --data TNBC --json > tnbc.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", nargs=-1)
@data_option
@click.option(
    "--mpp",
    type=Mpp(),
    metavar="MPP|auto|model",
    help="Microns per pixel of images that do not state theirs. auto: those with small nuclei are seen again, 1.5 "
    "times enlarged; model: they are taken as they are [default: the model's choice; of nano, auto].",
)
@click.option(
    "--split",
    help="Split of the data set; 'all' for every image [default: what the checkpoints' recipes held out; else val].",
)
@click.option(
    "--fold",
    "folds",
    multiple=True,
    metavar="SPLIT=MODEL",
    help="Instead of MODEL and --split: a split and the model tested on it (two checkpoints joined by a comma). "
    "May be repeated: mean and spread over the folds are then printed.",
)
@click.option(
    "--points",
    type=click.Choice(["predicted", "oracle"]),
    default="predicted",
    show_default=True,
    help="Prompts: the prompter's, or the annotated nuclei's centroids.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads [default: the physical cores; of checkpoints, torch's]."
)
@search_options
@overlap_option
@click.option(
    "--region-filter/--no-region-filter",
    default=None,
    help="Drop points outside the prompter's map of nuclei [default: the model's].",
)
@click.option(
    "--radius",
    type=Finite(0, min_open=True),
    default=RADIUS,
    show_default=True,
    help="A point within so many px of an annotated centroid finds that nucleus.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every image.")
def evaluate(
    model: tuple[str, ...],
    folders: tuple[Path, ...],
    mpp: MppChoice,
    split: str | None,
    folds: tuple[str, ...],
    points: str,
    radius: float,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Measure PQ, AJI, detection and classes of MODEL on annotated images.

    MODEL is a bundle, a prompter's and a segmentor's checkpoint, or a folder of label maps that any
    other tool has made: one PNG, TIFF, NPY or MAT an image, under the image's name.
    """
    options = Options(**given(chosen))
    if bool(model) == bool(folds):
        raise PnsegError("give one MODEL, or one for every --fold; pnseg evaluate --help shows both.")
    named = [_fold(text) for text in folds] or [(split or held_out(model), list(model))]
    tell = partial(click.echo, err=True)
    runs = [evaluate_run(name, parts, folders, options, points == "oracle", radius, mpp, tell) for name, parts in named]
    protocol = protocol_of(runs, options, points, radius)
    if as_json:
        print_json(document_of(runs, protocol, options))
    else:
        print_scores(runs, protocol)


def _fold(text: str) -> tuple[str, list[str]]:
    split, equals, model = text.partition("=")
    if not equals or not model:
        raise PnsegError(f"--fold {text}: expected SPLIT=MODEL, such as 123:test=bundles/fold1.")
    return split, model.split(",")
