"""``pnseg train``: the prompter or the segmentor, from a recipe."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import get_args

import click
import torch

from pnseg_runtime.errors import PnsegError
from pnseg_runtime.outputs.atomic import make_folder
from pnseg_train.checkpoints import Card, build, build_pair, tune_from
from pnseg_train.cli.options import assignment, data_option, mpp_option
from pnseg_train.curves import draw_curves
from pnseg_train.devices import open_fabric
from pnseg_train.fit import fit
from pnseg_train.material import licences_of, read_split, refuse_leak, refuse_nothing_to_judge_by
from pnseg_train.models.segmentor import WINDOW
from pnseg_train.models.sizes import SEGMENTOR_SIZES, VitSize
from pnseg_train.provenance import describe_run, logged_to
from pnseg_train.recipes import NO_SPLIT, Part, PrompterPart, Recipe, read_recipe
from pnseg_train.run_folder import STATE
from pnseg_train.tasks import task_of

log = logging.getLogger(__name__)
PROMPTER_PLAN = "prompter.plan"

EXAMPLES = """
\b
Examples:
  pnseg train prompter  --recipe nano --data DSB --data TNBC --out runs/nano/prompter
  pnseg train segmentor --recipe nano --data DSB --data TNBC --out runs/nano/segmentor
  pnseg train prompter  --recipe nano --data DSB --out runs/try --set prompter.plan.steps=200
  pnseg train prompter  --recipe nano-kumar --data Kumar --init runs/nano/prompter/best --out runs/kumar/prompter
  pnseg train segmentor --recipe pannuke-123 --data PanNuke --init sam_b --out runs/123/segmentor --set size=B
  torchrun --nproc-per-node 4 -m pnseg_runtime.cli train prompter --recipe cpm17 --data cpm17 --out runs/cpm17/prompter

The same command goes on where a stopped run was. Each device, and each process of torchrun, takes its own batch.
"""


@click.command(epilog=EXAMPLES)
@click.argument("network", type=click.Choice(["prompter", "segmentor", "shared"]))
@click.option("--recipe", "recipe_name", default="nano", show_default=True, help="A shipped recipe or a YAML file.")
@data_option
@mpp_option
@click.option("--train-split", help="What to train on; join several by + [default: the recipe's].")
@click.option(
    "--val-split",
    help="What chooses the best step; none trains without validation and keeps the last [default: the recipe's].",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option(
    "--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe; may be repeated."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: torch's].")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that prepare crops.")
@click.option(
    "--accelerator", default="auto", show_default=True, help="What trains: cpu, cuda, …, or whatever is there."
)
@click.option(
    "--devices",
    default="1",
    show_default=True,
    help="Number of devices, or auto for all there are. Each takes the recipe's batch of its own.",
)
@click.option(
    "--init", type=click.Path(path_type=Path), help="Start from the weights of a checkpoint, to tune it further."
)
@click.option(
    "--pretrained/--no-pretrained",
    default=True,
    show_default=True,
    help="ImageNet weights for the backbone where --init gives no others; a segmentor of B, L or H needs --init.",
)
def train(
    network: str,
    recipe_name: str,
    folders: tuple[Path, ...],
    mpp: float | None,
    train_split: str | None,
    val_split: str | None,
    out: Path,
    overrides: tuple[str, ...],
    threads: int | None,
    workers: int,
    accelerator: str,
    devices: str,
    init: Path | None,
    pretrained: bool,
) -> None:
    """Train the PROMPTER (one point a nucleus), the SEGMENTOR (one mask a point), or both over one SHARED encoder."""
    recipe = _recipe(network, recipe_name, overrides)
    chosen = {name: split for name, split in (("train", train_split), ("val", val_split)) if split}
    recipe = recipe.model_copy(update={"splits": recipe.splits.model_copy(update=chosen)})
    if network == "shared":
        _refuse_shared_sam(recipe)
    if pretrained and not init:
        _refuse_random_sam(network, recipe)
    plan = recipe.prompter.plan if network == "prompter" else recipe.segmentor.plan
    fabric = open_fabric(accelerator, devices, plan.precision)
    make_folder(out)
    if fabric.is_global_zero:
        click.get_current_context().with_resource(logged_to(out / "train.log"))
    if threads:
        torch.set_num_threads(threads)
    training = read_split(folders, recipe.splits.train, recipe, mpp)
    validation = [] if recipe.splits.val == NO_SPLIT else read_split(folders, recipe.splits.val, recipe, mpp)
    refuse_leak(training, validation, recipe.splits)
    refuse_nothing_to_judge_by(network, validation, recipe.splits)
    fabric.launch()
    if fabric.world_size > 1 and fabric.is_global_zero:
        together = fabric.world_size * plan.batch
        log.info("%d processes of %d crops each make batches of %d", fabric.world_size, plan.batch, together)
    torch.manual_seed(plan.seed)
    card = Card(
        network=network,
        recipe=recipe,
        data=[folder.resolve().name for folder in folders],
        licences=sorted({licence for folder in folders for licence in licences_of(folder)}),
    )
    # Weights that a checkpoint or the run's own state replaces need not be fetched.
    imagenet = pretrained and not init and not (out / STATE).is_file()
    model = build_pair(card, imagenet) if network == "shared" else build(card, imagenet)
    if init:
        card = card.model_copy(update={"tuned_from": tune_from(init, model, card)})
    samples, held_out = ([read.sample for read in part] for part in (training, validation))
    describe = partial(describe_run, out, recipe)
    best = fit(task_of(model, recipe), model, card, samples, held_out, out, fabric, workers=workers, on_start=describe)
    if fabric.is_global_zero:
        draw_curves(out)
        scores = [f"{name} {value:.4f}" for name, value in best.metrics.items()]
        click.echo(f"{out / ('best' if held_out else 'last')}: " + ", ".join([f"step {best.step}", *scores]))


def _recipe(network: str, name: str, overrides: tuple[str, ...]) -> Recipe:
    given = dict(assignment(text) for text in overrides)
    if network == "shared" and any(field == PROMPTER_PLAN or field.startswith(PROMPTER_PLAN + ".") for field in given):
        raise PnsegError(
            f"pnseg train shared trains both networks by segmentor.plan, and {PROMPTER_PLAN} says nothing there; "
            "set the fields of segmentor.plan instead."
        )
    recipe = read_recipe(name, {"shared_encoder": True, **given} if network == "shared" else given)
    if recipe.shared_encoder != (network == "shared"):
        raise PnsegError("shared_encoder trains both networks at once; use pnseg train shared.")
    frozen: dict[str, set[str]] = {"prompter": {*recipe.prompter.frozen}, "segmentor": {*recipe.segmentor.frozen}}
    if frozen.get(network) == set(get_args(PrompterPart if network == "prompter" else Part)):
        raise PnsegError(f"{network}.frozen names every part, so nothing is left to train; evaluate its checkpoint.")
    if network != "prompter" and recipe.augment.crop != WINDOW:
        raise PnsegError(
            f"augment.crop is {recipe.augment.crop}, and a segmentor sees windows of {WINDOW} px alone; "
            f"leave it at {WINDOW}, or train a prompter, which takes other crops."
        )
    return recipe


def _refuse_shared_sam(recipe: Recipe) -> None:
    """Refuse an image encoder for both networks that no bundle could hold.

    Raises:
        PnsegError: it is a ViT, whose windows are of one size, and the prompter takes images of any.
    """
    if isinstance(SEGMENTOR_SIZES[recipe.size], VitSize):
        raise PnsegError(
            f"one image encoder of size {recipe.size} for both networks cannot be exported; set size=nano, or train "
            "prompter and segmentor apart."
        )


def _refuse_random_sam(network: str, recipe: Recipe) -> None:
    if network != "prompter" and isinstance(SEGMENTOR_SIZES[recipe.size], VitSize):
        name = f"sam_{recipe.size.lower()}"
        raise PnsegError(
            f"a segmentor of size {recipe.size} starts from Meta's SAM: pnseg import sam_vit_{recipe.size.lower()}.pth "
            f"--out {name}, then --init {name}; --no-pretrained starts from random weights instead."
        )
