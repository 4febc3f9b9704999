"""``pnseg train``: the prompter or the segmentor, from a recipe."""

from __future__ import annotations

import csv
import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path

import click
import torch
import yaml
from lightning_fabric import Fabric
from rich.logging import RichHandler

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import Card, build, copy_weights, weights_digest
from pnseg_train.cli.options import data_option
from pnseg_train.curves import draw_curves
from pnseg_train.datasets import Sample, layout_of, open_dataset
from pnseg_train.fit import fit
from pnseg_train.recipes import Recipe, read_recipe
from pnseg_train.tasks import task_of

TOOLS = ("torch", "torchvision", "timm", "segment-anything", "lightning-fabric", "numpy")

EXAMPLES = """
\b
Examples:
  pnseg train prompter  --recipe nano --data DSB --data TNBC --out runs/nano/prompter
  pnseg train segmentor --recipe nano --data DSB --data TNBC --out runs/nano/segmentor
  pnseg train prompter  --recipe nano --data DSB --out runs/try --set prompter.plan.steps=200
  pnseg train prompter  --recipe nano --data Kumar --train-split train+val --val-split test --out runs/kumar

The same command goes on where a stopped run was. With several GPUs, start it with torchrun.
"""


@click.command(epilog=EXAMPLES)
@click.argument("network", type=click.Choice(["prompter", "segmentor"]))
@click.option("--recipe", "recipe_name", default="nano", show_default=True, help="A shipped recipe or a YAML file.")
@data_option
@click.option("--train-split", default="train", show_default=True, help="What to train on; join several by +.")
@click.option("--val-split", default="val", show_default=True, help="What chooses the best step.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field of the recipe.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: torch's].")
@click.option("--accelerator", default="auto", show_default=True, help="cpu, cuda, …")
@click.option("--devices", default="auto", show_default=True, help="Number of devices.")
@click.option(
    "--init", type=click.Path(path_type=Path), help="Start from the weights of a checkpoint, to tune it further."
)
@click.option(
    "--pretrained/--no-pretrained", default=True, show_default=True, help="Start the backbone from ImageNet weights."
)
def train(
    network: str,
    recipe_name: str,
    folders: tuple[Path, ...],
    train_split: str,
    val_split: str,
    out: Path,
    overrides: tuple[str, ...],
    threads: int | None,
    accelerator: str,
    devices: str,
    init: Path | None,
    pretrained: bool,
) -> None:
    """Train the PROMPTER (one point a nucleus) or the SEGMENTOR (one mask a point)."""
    recipe = read_recipe(recipe_name, dict(_assignment(text) for text in overrides))
    out.mkdir(parents=True, exist_ok=True)
    _log_to(out / "train.log")
    if threads:
        torch.set_num_threads(threads)
    training = _read(folders, train_split, recipe)
    validation = _read(folders, val_split, recipe)
    _refuse_leak(training, validation)
    plan = getattr(recipe, network).plan
    fabric = Fabric(
        accelerator=accelerator, devices=devices if devices == "auto" else int(devices), precision=plan.precision
    )
    fabric.launch()
    torch.manual_seed(plan.seed)
    card = Card(
        network=network,
        recipe=recipe,
        data=[folder.resolve().name for folder in folders],
        licences=sorted({licence for folder in folders for licence in _licences(folder)}),
    )
    if fabric.is_global_zero:
        _describe_run(out, recipe)
    model = build(card, pretrained)
    if init:
        copy_weights(init, model)
        card = card.model_copy(update={"tuned_from": weights_digest(init)})
    best = fit(task_of(model, recipe), model, card, training, validation, out, fabric)
    if fabric.is_global_zero:
        draw_curves(out)
        click.echo(f"{out / 'best'}: step {best.step}, " + ", ".join(f"{k} {v:.4f}" for k, v in best.metrics.items()))


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise PnsegError(f"--set {text}: expected FIELD=VALUE, such as prompter.plan.steps=500.")
    return name, yaml.safe_load(value)


def _read(folders: tuple[Path, ...], split: str, recipe: Recipe) -> list[Sample]:
    number = len(recipe.classes)
    return [sample.with_classes(number) for folder in folders for sample in open_dataset(folder, split)]


def _licences(folder: Path) -> set[str]:
    index = folder / "index.csv"
    if not index.is_file():
        layout = layout_of(folder)
        return {f"{layout.licence} ({layout.title})"} if layout.licence else set()
    with index.open(newline="", encoding="utf-8") as stream:
        return {row["licence"] for row in csv.DictReader(stream) if row.get("licence")}


def _refuse_leak(training: list[Sample], validation: list[Sample]) -> None:
    shared = {s.group for s in training if s.group} & {s.group for s in validation if s.group}
    if shared:
        raise PnsegError(f"images of one group stand in train and val ({', '.join(sorted(shared))}); mend index.csv.")


def _log_to(path: Path) -> None:
    plain = logging.FileHandler(path)
    plain.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[plain, RichHandler(show_path=False)], format="%(message)s")


def _describe_run(out: Path, recipe: Recipe) -> None:
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    environment = {tool: version(tool) for tool in TOOLS}
    environment |= {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
