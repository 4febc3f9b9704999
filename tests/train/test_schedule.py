"""Optimiser and learning rate."""

import pytest
from torch import nn

from pnseg_train.checkpoints import Card, build
from pnseg_train.recipes import Plan, read_recipe
from pnseg_train.schedule import learning_rate, make_optimizer


def test_learning_rate_warms_up_and_follows_its_schedule():
    plan = Plan(steps=100, lr=1.0, warmup=10, schedule="cosine")
    assert learning_rate(0, plan) == pytest.approx(0.1)
    assert learning_rate(9, plan) == pytest.approx(1.0)
    assert learning_rate(55, plan) == pytest.approx(0.505, abs=0.01)
    assert learning_rate(99, plan) == pytest.approx(0.01, abs=0.01)
    step = Plan(steps=100, lr=1.0, schedule="step", step_at=50)
    assert [learning_rate(49, step), learning_rate(50, step)] == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize(("optimizer", "decayed"), [("adam", {1, 2, 4}), ("adamw", {2, 4})])
def test_adam_decays_all_weights_and_adamw_none_of_norms_and_biases(optimizer, decayed):
    network: nn.Module = build(Card(network="prompter", recipe=read_recipe("nano")))
    groups = make_optimizer(network, Plan(steps=1, optimizer=optimizer, weight_decay=0.1)).param_groups
    assert {p.ndim for group in groups if group["weight_decay"] == 0.1 for p in group["params"]} == decayed
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
