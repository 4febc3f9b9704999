"""A segmentor that tells classes, in the place of the prompter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pnseg_runtime.errors import PnsegError
from pnseg_train.manifests import manifest_of
from pnseg_train.tasks import PrompterTask, SegmentorTask
from tests.train.small import TOLD, crop, made, prompts

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_class_token_tells_classes_by_a_focal_loss_of_weight_one():
    network, card = made("segmentor", TOLD)
    output = network.eval()(crop(256).image, prompts())
    assert output.class_logits.shape == (2, 3)
    batch = crop(256, classes=3)
    torch.manual_seed(1)
    terms = SegmentorTask(card.recipe).losses(network.train(), batch)
    assert terms["class"] > 0
    (double, card2) = made("segmentor", TOLD | {"segmentor.class_weight": 2.0})
    torch.manual_seed(1)
    weighed = SegmentorTask(card2.recipe).losses(double.train(), batch)
    assert float(weighed["class"]) == pytest.approx(2 * float(terms["class"]), rel=1e-4)
    assert {name: float(t) for name, t in weighed.items() if name != "class"} == pytest.approx(
        {name: float(t) for name, t in terms.items() if name != "class"}, rel=1e-4
    )


def test_without_a_class_token_a_segmentor_is_sams():
    network, _ = made("segmentor", {})
    assert network.eval()(crop(256).image, prompts()).class_logits is None
    told, _ = made("segmentor", TOLD)
    extra = told.state_dict().keys() - network.state_dict().keys()
    assert all(name.startswith(("mask_decoder.class_token", "mask_decoder.class_head")) for name in extra)
    assert not network.state_dict().keys() - told.state_dict().keys()


def test_when_the_segmentor_tells_classes_the_prompter_knows_nuclei_alone():
    prompter, card = made("prompter", TOLD)
    assert prompter.num_classes == 1
    terms = PrompterTask(card.recipe).losses(prompter.train(), crop(classes=3))
    assert torch.isfinite(terms["class"])
    assert manifest_of(card.recipe).classes.names == ["a", "b", "c"]


def test_class_logits_reach_the_nuclei_of_the_pipeline():
    import numpy as np

    from pnseg_runtime.bundle import Bundle
    from pnseg_runtime.prompts import PointPrompts
    from pnseg_runtime.segmenter import Segmenter
    from pnseg_train.inference import torch_sessions

    (prompter, card), (segmentor, _) = made("prompter", TOLD), made("segmentor", TOLD)
    head = segmentor.mask_decoder.class_head.layers[-1]
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 5.0, 1.0])
    sessions = torch_sessions(prompter.eval(), segmentor.eval())
    given = PointPrompts(np.array([[60, 60], [180, 90]], np.float32), np.zeros(2, np.int64), np.ones(2, np.float32))
    nuclei = Segmenter(Bundle(Path(), manifest_of(card.recipe)), sessions=sessions).predict(
        np.full((256, 256, 3), 128, np.uint8), points=given
    )
    assert len(nuclei)
    assert set(nuclei.classes.tolist()) == {1}


def test_a_segmentor_that_tells_classes_is_not_exported_without_them():
    decoder = pytest.importorskip("pnseg_export.graphs.decoder")
    network, _ = made("segmentor", TOLD)
    with pytest.raises(PnsegError, match="cannot be exported"):
        decoder.DecoderGraph(network)
