"""The paper's parts as switches: each changes what it should, and nothing else."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options, Settings
from pnseg_train.checkpoints import Card
from pnseg_train.crops import Crop
from pnseg_train.fit import Learner, train_step
from pnseg_train.manifests import manifest_of
from pnseg_train.models.segmentor import sam_segmentor
from pnseg_train.recipes import read_recipe
from pnseg_train.schedule import make_optimizer
from pnseg_train.targets import pixels_by_nucleus, random_prompts
from pnseg_train.tasks import PrompterTask, task_of
from tests.train.small import AUX_OFF, crop, gradients, made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_auxiliary_task_trains_the_region_head_and_its_pyramid_and_no_loss_of_points_changes():
    (on, card_on), (off, card_off) = made("prompter", {}), made("prompter", AUX_OFF)
    batch = crop()
    torch.manual_seed(1)
    with_task = PrompterTask(card_on.recipe).losses(on.train(), batch)
    torch.manual_seed(1)
    without = PrompterTask(card_off.recipe).losses(off.train(), batch)
    assert with_task["region"] > 0
    assert without["region"] == 0
    assert torch.equal(with_task["class"], without["class"])
    assert torch.equal(with_task["point"], without["point"])
    touched = gradients(on, card_on.recipe, batch).keys() - gradients(off, card_off.recipe, batch).keys()
    assert touched
    assert all(name.startswith(("mask_head.", "backbone.neck1.")) for name in touched)


def test_without_the_auxiliary_task_points_cannot_be_filtered_by_it():
    with pytest.raises(PnsegError, match="region_filter must be false"):
        read_recipe("nano", {"prompter.region_weight": 0})


def test_inference_switches_change_their_setting_alone():
    boxes = {"inference.nms_overlap": None}  # as the paper has it
    usual = Settings.of(manifest_of(read_recipe("nano", boxes)), Options())
    for field, value in {
        "region_filter": False,
        "negatives": 2,
        "nms_radius": 11.0,
        "overlap": 32,
        "nms_iou": 0.3,
        "nms_overlap": 0.6,
    }.items():
        by_recipe = Settings.of(manifest_of(read_recipe("nano", boxes | {f"inference.{field}": value})), Options())
        by_option = Settings.of(manifest_of(read_recipe("nano", boxes)), Options(**{field: value}))
        assert by_recipe == by_option
        changed = {name for name in vars(usual) if getattr(usual, name) != getattr(by_option, name)}
        assert changed == {field}


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_k_in_training_adds_that_many_negatives_to_the_same_positive_points(negatives):
    pixels = pixels_by_nucleus(crop().instances[0])
    torch.manual_seed(3)
    prompts, chosen = random_prompts(pixels, 0, 4, negatives, drop=0.0, central=0.5)
    torch.manual_seed(3)
    alone, same = random_prompts(pixels, 0, 4, 0, drop=0.0, central=0.5)
    assert torch.equal(chosen, same)
    assert torch.equal(prompts.coords[:, :1], alone.coords)
    assert prompts.labels.tolist() == [[1.0] + [0.0] * negatives] * 4


@pytest.mark.parametrize("frozen", [[], ["prompt_encoder"], ["image_encoder", "prompt_encoder"]])
def test_crops_without_a_nucleus_are_a_step_that_teaches_a_sam_nothing(frozen):
    card = Card(network="segmentor", recipe=read_recipe("kumar", {"segmentor.frozen": frozen}))
    torch.manual_seed(0)
    network = sam_segmentor(64, 2, 2, (1,))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    plan = card.recipe.segmentor.plan.model_copy(update={"weight_decay": 0.0})
    learner = Learner(task_of(network, card.recipe), network)
    empty = Crop(torch.randn(1, 3, 256, 256), *(torch.zeros(2, 1, 256, 256, dtype=torch.int64)))
    losses = train_step(*fabric.setup(learner, make_optimizer(network, plan)), empty, fabric, plan)
    assert losses == {"focal": 0.0, "dice": 0.0, "iou": 0.0, "loss": 0.0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all(parameter.grad is not None for parameter in trained.values())


def test_mixed_precision_computes_in_half_and_keeps_its_weights_whole():
    losses = {}
    one = Crop(*(part[:1] for part in crop(256)))  # bfloat16 is slow on a CPU that does not have it
    for precision in ("32-true", "bf16-mixed"):
        network, card = made("segmentor", {"segmentor.instances": 4})
        plan = card.recipe.segmentor.plan
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        learner, optimizer = fabric.setup(
            Learner(task_of(network, card.recipe), network), make_optimizer(network, plan)
        )
        torch.manual_seed(1)
        losses[precision] = train_step(learner, optimizer, one, fabric, plan)["loss"]
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
