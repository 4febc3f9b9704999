"""``pnseg train``: the prompter or the segmentor, from a recipe."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from pnseg_runtime.errors import PnsegError, one_line
from pnseg_runtime.outputs.atomic import make_folder
from pnseg_train.checkpoints import Card, build, build_pair, start_from, weights_digest
from pnseg_train.cli.options import data_option, mpp_option
from pnseg_train.curves import draw_curves
from pnseg_train.datasets import Sample, layout_of, open_dataset, other_classes
from pnseg_train.datasets.sample import image_digest
from pnseg_train.datasets.tcga import patient_of
from pnseg_train.fit import fit
from pnseg_train.models.segmentor import WINDOW
from pnseg_train.models.shared import SharedPair
from pnseg_train.models.sizes import SEGMENTOR_SIZES, VitSize
from pnseg_train.recipes import NO_SPLIT, Part, PrompterPart, Recipe, Splits, read_recipe
from pnseg_train.run_folder import STATE
from pnseg_train.tasks import judged_windows, task_of

log = logging.getLogger(__name__)
PROMPTER_PLAN = "prompter.plan"
TOOLS = ("torch", "torchvision", "timm", "segment-anything", "lightning-fabric", "numpy")

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


class Read(NamedTuple):
    """A sample as the model sees it; folder, the data set; digest, of the image as its file holds it."""

    folder: Path
    sample: Sample
    digest: str


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
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: torch's].")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that prepare crops.")
@click.option("--accelerator", default="auto", show_default=True, help="cpu, cuda, …")
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
    training = _read(folders, recipe.splits.train, recipe, mpp)
    validation = [] if recipe.splits.val == NO_SPLIT else _read(folders, recipe.splits.val, recipe, mpp)
    _refuse_leak(training, validation, recipe.splits)
    _refuse_nothing_to_judge_by(network, validation, recipe.splits)
    fabric.launch()
    if fabric.world_size > 1 and fabric.is_global_zero:
        together = fabric.world_size * plan.batch
        log.info("%d processes of %d crops each make batches of %d", fabric.world_size, plan.batch, together)
    torch.manual_seed(plan.seed)
    card = Card(
        network=network,
        recipe=recipe,
        data=[folder.resolve().name for folder in folders],
        licences=sorted({licence for folder in folders for licence in _licences(folder)}),
    )
    # Weights that a checkpoint or the run's own state replaces need not be fetched.
    imagenet = pretrained and not init and not (out / STATE).is_file()
    model = build_pair(card, imagenet) if network == "shared" else build(card, imagenet)
    if init:
        card = card.model_copy(update={"tuned_from": _start_from(init, model, card)})
    samples, held_out = ([read.sample for read in part] for part in (training, validation))
    describe = partial(_describe_run, out, recipe)
    best = fit(task_of(model, recipe), model, card, samples, held_out, out, fabric, workers=workers, on_start=describe)
    if fabric.is_global_zero:
        draw_curves(out)
        scores = [f"{name} {value:.4f}" for name, value in best.metrics.items()]
        click.echo(f"{out / ('best' if held_out else 'last')}: " + ", ".join([f"step {best.step}", *scores]))


def open_fabric(accelerator: str, devices: str, precision: Any) -> Fabric:
    """Lightning Fabric on one device, on several, or as one of torchrun's processes.

    Args:
        devices: their number, or ``auto`` for all there are; torchrun's processes count instead of it.

    Raises:
        PnsegError: not such a number, or an accelerator or a precision that there is not.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:  # started by torchrun, which says how many there are
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    else:
        here = everywhere = device_count(accelerator, devices)
    # SAM's decoder has parts that no single mask needs, and a crop without a nucleus has no masks at all: these
    # parameters get no gradient.
    several: dict[str, Any] = {"num_nodes": everywhere // here, "strategy": DDPStrategy(find_unused_parameters=True)}
    try:
        return Fabric(accelerator=accelerator, devices=here, precision=precision, **(several if everywhere > 1 else {}))
    except (ValueError, RuntimeError) as error:
        raise PnsegError(
            f"--accelerator {accelerator}, --devices {here} and plan.precision {precision} do not go here "
            f"({one_line(error)}); --accelerator cpu --devices 1 goes everywhere."
        ) from error


def device_count(accelerator: str, devices: str) -> int:
    """How many devices ``--devices`` means: a number, or all of CUDA's for ``auto``.

    Raises:
        PnsegError: neither of them.
    """
    if devices == "auto":
        return max(torch.cuda.device_count(), 1) if accelerator in {"auto", "cuda", "gpu"} else 1
    if not devices.isdecimal() or int(devices) < 1:
        raise PnsegError(
            f"--devices {devices}: give the number of devices, or auto for all; CUDA_VISIBLE_DEVICES says which."
        )
    return int(devices)


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


def _start_from(init: Path, model: nn.Module, card: Card) -> str:
    """Weights of a checkpoint, or of both of a pair; the SHA-256 of them."""
    if isinstance(model, SharedPair):
        # The segmentor last: the image encoder of both is its.
        folders = {half: init / half for half in ("prompter", "segmentor") if (init / half).is_dir()}
        if not folders:
            folders = {"segmentor": init}
        parts = model.parts()
        return " ".join(
            _start_from(folder, parts[half], card.model_copy(update={"network": half}))
            for half, folder in folders.items()
        )
    fresh = start_from(init, model, card)
    if fresh:
        log.info("%s: other classes or widths, so these start anew: %s", init, ", ".join(fresh))
    return weights_digest(init)


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


def _read(folders: tuple[Path, ...], split: str, recipe: Recipe, mpp: float | None) -> list[Read]:
    # All samples of a split as the model sees them; mpp is that of images that do not state theirs.
    number, samples = len(recipe.classes), []
    for folder in folders:
        given = (replace(sample, mpp=sample.mpp or mpp) for sample in open_dataset(folder, split))
        own = [
            Read(folder, sample.with_classes(number).at_mpp(recipe.mpp), image_digest(sample.image)) for sample in given
        ]
        _check_classes(folder, split, [read.sample for read in own], recipe)
        samples += own
    return samples


def _check_classes(folder: Path, split: str, samples: list[Sample], recipe: Recipe) -> None:
    other = other_classes(folder, recipe.classes)
    if other:
        raise PnsegError(
            f"{folder}: {other}; choose a recipe with the classes of this data set, or one with a single class."
        )
    found = {int(kind) for sample in samples for kind in np.unique(sample.classes)}
    missing = [name for number, name in enumerate(recipe.classes, start=1) if number not in found]
    if missing and len(recipe.classes) > 1:
        log.warning("%s: no nucleus of the split %s is of the class %s", folder, split, " or ".join(missing))


def _licences(folder: Path) -> set[str]:
    index = folder / "index.csv"
    if not index.is_file():
        layout = layout_of(folder)
        return {f"{layout.licence} ({layout.title})"} if layout.licence else set()
    with index.open(newline="", encoding="utf-8-sig") as stream:
        return {row["licence"] for row in csv.DictReader(stream) if row.get("licence")}


def _refuse_leak(training: list[Read], validation: list[Read], splits: Splits) -> None:
    both = f"both in the training split {splits.train} and in the validation split {splits.val}"
    remedy = "choose splits that share none, or --val-split none, which trains without validation"
    trained = {read.digest: read for read in training}
    shared = [(read, trained[read.digest]) for read in validation if read.digest in trained]
    if shared:
        held, twin = min(shared, key=lambda pair: (pair[0].folder, pair[0].sample.name))
        there = f"{held.sample.name} one of them"
        if (held.folder, held.sample.name) != (twin.folder, twin.sample.name):
            there = f"{held.sample.name} (the same pixels as {twin.folder}: {twin.sample.name}) one of them"
        raise PnsegError(f"{held.folder}: {len(shared)} images, {there}, stand {both}; {remedy}.")
    groups = _groups(training) & _groups(validation)
    if groups:
        raise PnsegError(
            f"images of one group ({', '.join(sorted({name for _, name in groups}))}) stand {both}; {remedy}, "
            "or mend the groups of index.csv where the data have one."
        )


def _groups(samples: list[Read]) -> set[tuple[Path | None, str]]:
    # A data set may number its patients as another does; those of TCGA have the same names in all.
    patients = [(read.folder.resolve(), patient_of(read.sample.group)) for read in samples if read.sample.group]
    return {(None if patient.startswith("TCGA-") else folder, patient) for folder, patient in patients}


def _refuse_nothing_to_judge_by(network: str, validation: list[Read], splits: Splits) -> None:
    if not validation:
        return
    remedy = "choose another split, or --val-split none, which trains without validation"
    if not any(read.sample.instances.any() for read in validation):
        raise PnsegError(
            f"the validation split {splits.val} has no nucleus, so no step is better than another; {remedy}."
        )
    if network != "prompter" and not any(True for read in validation for _ in judged_windows(read.sample)):
        raise PnsegError(
            f"the nuclei of the validation split {splits.val} are all too small to be prompted (under 16 px at "
            f"the recipe's mpp), so no step is better than another; {remedy}."
        )


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """What the training logs goes into a file, too, and its progress is told besides its warnings."""
    ours = logging.getLogger("pnseg_train")
    file, level = logging.FileHandler(path, encoding="utf-8"), ours.level
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours.addHandler(file)
    ours.setLevel(min(ours.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        ours.setLevel(level)
        ours.removeHandler(file)
        file.close()


def _describe_run(out: Path, recipe: Recipe) -> None:
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    environment = {tool: version(tool) for tool in TOOLS}
    environment |= {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
