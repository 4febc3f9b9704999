"""One image encoder for both networks."""

from __future__ import annotations

import pytest
import torch

from pnseg_train.checkpoints import Card, build_pair, load_checkpoint, save_checkpoint
from pnseg_train.fit import Learner
from pnseg_train.models.shared import EncoderPyramid, SharedPair
from pnseg_train.recipes import read_recipe
from pnseg_train.tasks import task_of
from tests.train.small import SHARED, crop, prompts

pytestmark = pytest.mark.usefixtures("one_thread")


def test_frozen_parts_of_a_shared_pair_are_those_of_both():
    changes = {**SHARED, "prompter.frozen": ["points"], "segmentor.frozen": ["prompt_encoder"]}
    card = Card(network="shared", recipe=read_recipe("nano", changes))
    pair = build_pair(card)
    learner = Learner(task_of(pair, card.recipe), pair)
    still = {name for name, parameter in learner.network.named_parameters() if not parameter.requires_grad}
    heads = ("backbone.neck.", "deform_layer.", "reg_head.", "cls_head.", "conv.")
    parts = (*(f"prompter.{head}" for head in heads), "segmentor.prompt_encoder.")
    assert {next((part for part in parts if name.startswith(part)), name) for name in still} == set(parts)


def test_a_shared_encoder_is_one_and_learns_from_both_losses():
    card = Card(network="shared", recipe=read_recipe("nano", SHARED))
    torch.manual_seed(0)
    pair = build_pair(card)
    backbone = pair.prompter.backbone.backbone
    assert isinstance(backbone, EncoderPyramid)
    assert backbone.encoder is pair.segmentor.image_encoder
    separate = sum(p.numel() for p in pair.prompter.parameters()) + sum(p.numel() for p in pair.segmentor.parameters())
    encoder = sum(p.numel() for p in pair.segmentor.image_encoder.parameters())
    assert sum(p.numel() for p in pair.parameters()) == separate - encoder
    batch, task = crop(256), task_of(pair, card.recipe)
    first = pair.segmentor.image_encoder.backbone.conv_stem.weight
    for part in ("class", "dice"):
        torch.manual_seed(1)
        terms = task.losses(pair.train(), batch)
        term = next(value for name, value in terms.items() if name.endswith(part))
        assert torch.autograd.grad(term, first)[0].any()


def test_a_shared_pair_is_kept_as_two_checkpoints_that_give_the_same(tmp_path):
    card = Card(network="shared", recipe=read_recipe("nano", SHARED))
    pair = build_pair(card).eval()
    save_checkpoint(tmp_path, pair, card)
    prompter, first = load_checkpoint(tmp_path / "prompter")
    segmentor, second = load_checkpoint(tmp_path / "segmentor")
    assert (first.network, second.network) == ("prompter", "segmentor")
    image = crop(256).image
    with torch.no_grad():
        features = pair.encode(image)
        torch.testing.assert_close(prompter(image).points, pair.propose(features, (256, 256)).points)
        torch.testing.assert_close(
            segmentor(image, prompts()).mask_logits, pair.decode(features, prompts()).mask_logits
        )


def test_sams_encoder_can_be_shared_too():
    with torch.device("meta"):
        card = Card(network="shared", recipe=read_recipe("kumar", {**SHARED, "inference.pad_multiple": 32}))
        pair = build_pair(card)
    assert isinstance(pair, SharedPair)
    assert sum(p.numel() for p in pair.parameters()) / 1e6 == pytest.approx(101, abs=4)
