"""A training of a single number, as fast as one can be, that is stopped at will."""

import json

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from pnseg_train.checkpoints import Card
from pnseg_train.datasets import Sample
from pnseg_train.fit import fit
from pnseg_train.recipes import Plan, Splits, read_recipe
from tests.train.datasets.made import boxes_map, picture


class Stopped(Exception):
    """Stands for a machine that goes down."""


def lines(run) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


class Dot(nn.Module):
    """Stands for a network: one number, that is to become the mean of the crops."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))


class DotTask:
    """Its training."""

    score, judged_by, frozen = "f1", (), ()

    def __init__(self, plan: Plan):
        self.plan = plan

    def losses(self, network, crop):
        return {"square": (network.value - crop.image.mean()).square().sum()}

    def validate(self, network, samples):
        return {"f1": float(len(samples))}


def train_dot(
    run, tiles, *, processes=1, scaler=None, stop_after=None, on_start=None, task=DotTask, plan=(), inference=(), **card
):
    """A run of a few fast steps; returns its network and its card."""
    torch.set_num_threads(1)
    plan = {"steps": 4, "batch": 2, "checkpoint_every": 2, **dict(plan)}
    fields = {"augment.crop": 32, **{f"prompter.plan.{name}": n for name, n in plan.items()}, **dict(inference)}
    recipe = read_recipe("nano", fields)
    recipe = recipe.model_copy(update={"splits": Splits(train=card.pop("split", "train"))})
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.strategy._precision = scaler or fabric.strategy.precision
    network = Dot()

    def on_step(step, _):
        if step == stop_after:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fabric, "world_size", processes)
        given = Card(network="prompter", recipe=recipe, **card)
        best = fit(
            task(recipe.prompter.plan), network, given, tiles[:2], tiles[2:3], run, fabric, on_step, on_start=on_start
        )
    return network, best


def tiles_of(seed=0):
    return [
        Sample(f"{seed}{number}", picture(40, 40, seed + number), *[boxes_map({1: (4, 4, 20, 20)}, (40, 40))] * 2)
        for number in range(3)
    ]
