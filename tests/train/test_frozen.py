"""Parts that do not learn, or learn more slowly."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from pnseg_train.checkpoints import Card, build
from pnseg_train.fit import Learner, train_step
from pnseg_train.recipes import Plan, read_recipe
from pnseg_train.schedule import make_optimizer
from pnseg_train.tasks import task_of
from tests.train.small import crop, gradients, made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_frozen_parts_neither_learn_nor_gather_statistics():
    network, card = made("segmentor", {"segmentor.frozen": ["image_encoder", "prompt_encoder"]})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    plan = card.recipe.segmentor.plan
    learner = Learner(task_of(network, card.recipe), network)
    optimizer = make_optimizer(network, plan)
    train_step(*fabric.setup(learner, optimizer), crop(256), fabric, plan)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("mask_decoder.") for name in changed)


@pytest.mark.parametrize(
    ("frozen", "learns"),
    [
        (["backbone", "points"], ("backbone.neck1.", "mask_head.")),
        (["backbone", "region"], ("backbone.neck.", "deform_layer.", "reg_head.", "cls_head.", "conv.")),
        (["points", "region"], ("backbone.backbone.",)),
    ],
)
def test_frozen_parts_of_a_prompter_stay_and_the_others_learn(frozen, learns):
    network, card = made("prompter", {"prompter.frozen": frozen})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    learner = Learner(task_of(network, card.recipe), network)
    optimizer = make_optimizer(network, card.recipe.prompter.plan)
    train_step(*fabric.setup(learner, optimizer), crop(), fabric, card.recipe.prompter.plan)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {next((part for part in learns if name.startswith(part)), name) for name in changed} == set(learns)


@pytest.mark.parametrize(("part", "size"), [("prompter", 128), ("segmentor", 256)])
@pytest.mark.parametrize("fixed", [False, True])
def test_fixed_norms_keep_their_statistics_and_learn_the_rest(part, size, fixed):
    network, card = made(part, {f"{part}.plan.fixed_norms": fixed})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    plan = getattr(card.recipe, part).plan
    learner = Learner(task_of(network, card.recipe), network)
    train_step(*fabric.setup(learner, make_optimizer(network, plan)), crop(size), fabric, plan)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed - statistics
    assert bool(changed & statistics) != fixed


def test_a_network_that_is_not_frozen_learns_in_its_encoder_too():
    network, card = made("segmentor", {})
    names = gradients(network, card.recipe, crop(256))
    assert {name.partition(".")[0] for name in names} == {"image_encoder", "prompt_encoder", "mask_decoder"}


def test_the_papers_recipes_freeze_sams_prompt_encoder():
    for name in ("pannuke-123", "pannuke-213", "pannuke-321", "kumar", "cpm17"):
        assert read_recipe(name).segmentor.frozen == ["prompt_encoder"]


# What is no part of the backbone in each network's names; all else of it has been trained before.
HEADS = {
    "prompter": ("backbone.neck", "deform_layer", "reg_head", "cls_head", "conv.", "mask_head"),
    "segmentor": ("prompt_encoder", "mask_decoder"),
    "nano prompter": (
        "backbone.neck",
        "deform_layer",
        "reg_head",
        "cls_head",
        "conv.",
        "mask_head",
        "backbone.backbone.bn1",
    ),
    "nano segmentor": (
        *("prompt_encoder", "mask_decoder", "image_encoder.backbone.bn1", "image_encoder.context"),
        *("image_encoder.embed", "image_encoder.merge", "image_encoder.head"),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_backbone_of_every_network_learns_at_its_own_rate(name):
    kind = name.rpartition(" ")[2]
    card = Card(network=kind, recipe=read_recipe("nano" if "nano" in name else "kumar"))
    with torch.device("meta"):
        network = build(card)
    plan = Plan(steps=1, backbone_lr=0.25)
    groups = make_optimizer(network, plan).param_groups
    slow = {id(p) for group in groups if group["factor"] == 0.25 for p in group["params"]}
    names = {each for each, p in network.named_parameters() if id(p) in slow}
    assert names == {each for each, _ in network.named_parameters() if not each.startswith(HEADS[name])}


def test_the_papers_recipes_train_all_at_one_rate():
    for name in ("pannuke-123", "pannuke-213", "pannuke-321", "kumar", "cpm17"):
        recipe = read_recipe(name)
        assert recipe.prompter.plan.backbone_lr == recipe.segmentor.plan.backbone_lr == 1.0
