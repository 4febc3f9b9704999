"""A crop and networks of nano's size that tests of training's switches share."""

from __future__ import annotations

import torch
from torch import nn

from pnseg_train.checkpoints import Card, build
from pnseg_train.crops import Crop
from pnseg_train.fit import Learner
from pnseg_train.models.segmentor import Prompts
from pnseg_train.recipes import read_recipe
from pnseg_train.tasks import task_of

AUX_OFF = {"prompter.region_weight": 0, "inference.region_filter": False}


TOLD = {"class_by": "segmentor", "classes": ["a", "b", "c"], "colors": [[1, 1, 1]] * 3}


def crop(size: int = 128, classes: int = 1) -> Crop:
    generator = torch.Generator().manual_seed(0)
    instances = torch.zeros(2, size, size, dtype=torch.int64)
    for value, (x, y) in enumerate([(10, 12), (60, 20), (30, 80), (90, 90)], start=1):
        instances[:, y : y + 12, x : x + 14] = value
    kinds = torch.where(instances > 0, (instances - 1) % classes + 1, 0)
    return Crop(torch.randn(2, 3, size, size, generator=generator), instances, kinds)


def gradients(network: nn.Module, recipe, batch: Crop) -> dict[str, torch.Tensor]:
    learner = Learner(task_of(network, recipe), network)
    learner.train()
    torch.manual_seed(1)
    sum(learner(*batch).values()).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


def made(network: str, overrides: dict) -> tuple[nn.Module, Card]:
    card = Card(network=network, recipe=read_recipe("nano", overrides))
    torch.manual_seed(0)
    return build(card), card


def prompts() -> Prompts:
    return Prompts(torch.tensor([[[20.0, 30.0]], [[90.0, 70.0]]]), torch.ones(2, 1), torch.tensor([0, 1]))


SHARED = {"shared_encoder": True}
