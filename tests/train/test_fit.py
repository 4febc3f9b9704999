"""The training loop on real tiles: it learns, it repeats, and it goes on exactly where it stopped."""

import json
import math

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import Card, build, load_checkpoint, read_card
from pnseg_train.datasets import read_folder
from pnseg_train.fit import fit
from pnseg_train.recipes import read_recipe
from pnseg_train.tasks import task_of
from tests import golden
from tests.train.dots import DotTask, Stopped, lines, tiles_of, train_dot


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


def test_steps_that_are_asked_for_are_kept_as_the_run_passed_them(tmp_path):
    train_dot(tmp_path / "whole", tiles_of(), plan={"keep": [1, 3, 9]})
    assert sorted(folder.name for folder in (tmp_path / "whole").glob("step-*")) == ["step-1", "step-3"]
    with pytest.raises(Stopped):
        train_dot(tmp_path / "stopped", tiles_of(), stop_after=3, plan={"validate_every": 1})
    kept, passed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole/step-3", "stopped/last"))
    assert torch.equal(kept["value"], passed["value"])
    assert read_card(tmp_path / "whole" / "step-3").step == 3
    assert not torch.equal(kept["value"], load_file(tmp_path / "whole/last/model.safetensors")["value"])


class DivergingTask(DotTask):
    """Its loss, or the gradient of it, is finite in the first two steps alone."""

    steps_done = 0
    fault = staticmethod(lambda value: value * math.nan)

    def losses(self, network, crop):
        self.steps_done += 1
        sound = super().losses(network, crop)
        return sound if self.steps_done <= 2 else sound | {"fault": self.fault(network.value).sum()}


class SteepTask(DivergingTask):
    fault = staticmethod(lambda value: (value - value.detach()).abs().sqrt())  # 0, with a gradient of 0 · inf


@pytest.mark.parametrize(("task", "says"), [(DivergingTask, "the loss is nan"), (SteepTask, "weights are not finite")])
@pytest.mark.parametrize("validated", [True, False])
def test_a_run_that_diverges_stops_and_keeps_its_earlier_checkpoint(task, says, validated, tmp_path):
    tiles = tiles_of()[: 3 if validated else 2]
    with pytest.raises(PnsegError, match=rf"{says} at step 3\); go on from .*last by --init with a lower plan\.lr"):
        train_dot(tmp_path, tiles, task=task, plan={"validate_every": 1})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert json.loads((tmp_path / "last" / "model.json").read_text())["step"] == 2
    assert load_file(tmp_path / "last" / "model.safetensors")["value"].isfinite().all()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["state"]["step"] == 2


def test_a_run_that_diverges_before_its_first_checkpoint_is_to_be_trained_anew(tmp_path):
    with pytest.raises(PnsegError, match=r"at step 3\); train anew with a lower"):
        train_dot(tmp_path, tiles_of(), task=DivergingTask)
    assert not (tmp_path / "last").exists()


@pytest.mark.slow
def test_the_segmentor_learns_on_real_tiles(tmp_path):
    card = train("segmentor", tmp_path / "run", steps=30)
    losses = [line["dice"] for line in lines(tmp_path / "run")]
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    assert card.metrics["iou"] > 0.3
