"""``pnseg restore``: a bundle becomes two checkpoints again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from pnseg_export.bundle import check
from pnseg_export.cli.options import tiles_option
from pnseg_export.precision.feeds import read_tiles
from pnseg_export.restore import renormalise, restore
from pnseg_runtime.bundle import MANIFEST_NAME, Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.hashes import sha256_of
from pnseg_train.checkpoints import CARD, Card, save_checkpoint
from pnseg_train.crops import Crops
from pnseg_train.datasets import Sample, open_dataset
from pnseg_train.manifests import fields_of
from pnseg_train.recipes import Recipe, read_recipe

CROPS = 64  # whose statistics the batch norms get

EXAMPLES = """
\b
Examples:
  pnseg restore nano --out runs/nano --data DSB --data TNBC
  pnseg train prompter  --recipe nano-kumar --data Kumar --init runs/nano/prompter  --out runs/kumar/prompter
  pnseg train segmentor --recipe nano-kumar --data Kumar --init runs/nano/segmentor --out runs/kumar/segmentor
"""


@click.command("restore", epilog=EXAMPLES)
@click.argument("bundle")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of both checkpoints."
)
@click.option("--recipe", default="nano", show_default=True, help="What the networks are trained by from now on.")
@click.option(
    "--data",
    "folders",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    required=True,
    help="Training set on which the batch norms take their statistics; may be repeated.",
)
@tiles_option(" on which graphs and PyTorch are compared")
@click.option("--overwrite", is_flag=True, help="Replace checkpoints that are there.")
def restore_(bundle: str, out: Path, recipe: str, folders: tuple[Path, ...], tiles: Path, overwrite: bool) -> None:
    """Take the networks of a nano BUNDLE out of its graphs, to train them further.

    The checkpoints, OUT/prompter and OUT/segmentor, are compared with the graphs on real tiles;
    what differs is not written. Takes one to three minutes.
    """
    parts = {part: out / part for part in ("prompter", "segmentor")}
    for folder in parts.values():
        if (folder / CARD).exists() and not overwrite:
            raise PnsegError(f"{folder}: holds a checkpoint already; give another --out, or --overwrite.")
    opened, images = Bundle.open(bundle), read_tiles(tiles)
    chosen = read_recipe(recipe, fields_of(opened.manifest))
    crops = crops_of(samples_of(folders, chosen), chosen)
    pair = restore(opened, chosen)
    renormalise(pair.prompter, lambda: pair.prompter(crops))
    renormalise(pair.segmentor, lambda: pair.segmentor.encode(crops))
    found = check(opened.folder, *pair, images)
    origin = f"{opened.manifest.model} {sha256_of(opened.folder / MANIFEST_NAME)}"
    for part, folder in parts.items():
        card = Card(network=part, recipe=chosen, imported=origin, licences=opened.manifest.provenance.data_licences)
        save_checkpoint(folder, getattr(pair, part), card)
        click.echo(folder)
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found["largest_difference"].items())
    click.echo(f"largest difference from the graphs on {len(images)} tiles: {differences}")


def samples_of(folders: Sequence[Path], recipe: Recipe) -> list[Sample]:
    """The training images at the recipe's microns per pixel, as the training reads them."""
    given = (sample for folder in folders for sample in open_dataset(folder, recipe.splits.train))
    return [sample.at_mpp(recipe.mpp) for sample in given]


def crops_of(samples: list[Sample], recipe: Recipe) -> torch.Tensor:
    """(N, 3, S, S) float32: crops as the training sees them."""
    crops = Crops(samples, recipe.augment, seed=0, length=CROPS)
    return torch.stack([crop.image for crop in (crops[index] for index in range(CROPS))])
