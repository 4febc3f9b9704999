"""One of the processes of the test of several: steps on the prompter, weights into a file."""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from pnseg_train import fit as fitting
from pnseg_train.checkpoints import Card, build
from pnseg_train.datasets import read_folder
from pnseg_train.devices import open_fabric
from pnseg_train.recipes import Plan, read_recipe
from pnseg_train.tasks import task_of
from tests import golden

OVERRIDES = {
    "augment.crop": 96,
    "prompter.plan.steps": 2,
    "prompter.plan.batch": 1,
    "prompter.plan.warmup": 0,
    "prompter.plan.ema": 0,
    "prompter.plan.clip": 0,
    "prompter.plan.precision": "32-true",
    "prompter.plan.validate_every": 9,
}


def plain_descent(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Steps as long as their gradients, which Adam's and clipped ones are not: a sum would pass for a mean."""
    return torch.optim.SGD([{"params": list(network.parameters()), "factor": 1.0}], lr=plan.lr)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    card = Card(network="prompter", recipe=read_recipe("nano", OVERRIDES))
    fabric = open_fabric("cpu", "auto", "32-true")
    fabric.launch()
    torch.manual_seed(1)
    network = build(card)
    tiles = read_folder(golden.TILES, None)
    fitting.make_optimizer = plain_descent
    fitting.fit(task_of(network, card.recipe), network, card, tiles[:4], tiles[4:5], out / "run", fabric)
    torch.save(network.state_dict(), out / f"weights{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
