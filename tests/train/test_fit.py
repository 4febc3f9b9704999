"""The training loop on real tiles: it learns, it repeats, and it goes on exactly where it stopped."""

import json

import pytest
import torch
from lightning_fabric import Fabric

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import Card, build, load_checkpoint
from pnseg_train.datasets import read_folder
from pnseg_train.fit import fit, learning_rate
from pnseg_train.recipes import Plan, read_recipe
from pnseg_train.tasks import task_of
from tests import golden


class Stopped(Exception):
    """Stands for a machine that goes down."""


def small_recipe(network: str, steps: int = 6):
    overrides = {
        "augment.crop": 128 if network == "prompter" else 256,  # the segmentor's window
        "segmentor.instances": 4,
        f"{network}.plan.steps": steps,
        f"{network}.plan.batch": 2,
        f"{network}.plan.warmup": 0,
        f"{network}.plan.ema_from": 2,
        f"{network}.plan.validate_every": steps,
        f"{network}.plan.checkpoint_every": 3,
        f"{network}.plan.precision": "32-true",
    }
    return read_recipe("nano", overrides)


def train(network: str, run, stop_after: int | None = None, steps: int = 6) -> Card:
    torch.set_num_threads(1)
    tiles = read_folder(golden.TILES, None)
    card = Card(network=network, recipe=small_recipe(network, steps))
    torch.manual_seed(0)
    model = build(card)

    def on_step(step: int, _: dict[str, float]) -> None:
        if step == stop_after:
            raise Stopped

    fabric = Fabric(accelerator="cpu", devices=1)
    return fit(task_of(model, card.recipe), model, card, tiles[:4], tiles[4:5], run, fabric, on_step)


def lines(run) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["prompter", "segmentor"])
def test_a_stopped_run_goes_on_bit_for_bit(network, tmp_path):
    train(network, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(network, tmp_path / "stopped", stop_after=4)  # one step behind the last state
    train(network, tmp_path / "stopped")
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")
    whole, stopped = (load_checkpoint(tmp_path / run / "last")[0].state_dict() for run in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.slow
def test_a_run_of_another_recipe_is_not_continued(tmp_path):
    train("prompter", tmp_path / "run", steps=3)
    with pytest.raises(PnsegError, match="another recipe"):
        train("prompter", tmp_path / "run", steps=4)


@pytest.mark.slow
def test_the_segmentor_learns_on_real_tiles(tmp_path):
    card = train("segmentor", tmp_path / "run", steps=30)
    losses = [line["dice"] for line in lines(tmp_path / "run")]
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    assert card.metrics["iou"] > 0.3


def test_learning_rate_warms_up_and_follows_its_schedule():
    plan = Plan(steps=100, lr=1.0, warmup=10, schedule="cosine")
    assert learning_rate(0, plan) == pytest.approx(0.1)
    assert learning_rate(9, plan) == pytest.approx(1.0)
    assert learning_rate(55, plan) == pytest.approx(0.505, abs=0.01)
    assert learning_rate(99, plan) == pytest.approx(0.01, abs=0.01)
    step = Plan(steps=100, lr=1.0, schedule="step", step_at=50)
    assert [learning_rate(49, step), learning_rate(50, step)] == pytest.approx([1.0, 0.1])
