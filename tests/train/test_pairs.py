"""Two checkpoints that predict together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_train import inference as pairs
from pnseg_train.checkpoints import save_checkpoint
from pnseg_train.inference import load_pair, open_checkpoints, pair_recipe
from pnseg_train.manifests import manifest_of
from pnseg_train.recipes import read_recipe
from tests.train.small import TOLD, made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_prompter_that_tells_classes_is_not_paired_with_a_segmentor_that_does(tmp_path):
    save_checkpoint(tmp_path / "p", *made("prompter", {}))
    save_checkpoint(tmp_path / "s", *made("segmentor", TOLD))
    with pytest.raises(PnsegError, match="give two of one kind"):
        load_pair(tmp_path / "p", tmp_path / "s")


def pair_of(prompter, segmentor, recipe="nano"):
    return pair_recipe(Path("p"), read_recipe(recipe, prompter), Path("s"), read_recipe(recipe, segmentor))


def test_a_pair_predicts_with_the_prompters_points_and_the_segmentors_masks_and_says_what_it_leaves(caplog):
    first = {
        "inference.sensitivity": 0.7,
        "inference.nms_radius": 9,
        "inference.nms_iou": 0.1,
        "inference.negatives": 2,
    }
    second = {
        "inference.sensitivity": 0.2,
        "inference.nms_radius": 9,
        "inference.nms_iou": 0.3,
        "inference.overlap": 32,
    }
    inference = pair_of(first, second).inference
    assert (inference.sensitivity, inference.nms_radius) == (0.7, 9)
    assert (inference.nms_iou, inference.negatives, inference.overlap) == (0.3, 0, 32)
    assert "p: its inference.nms_iou of 0.1 is not taken, but 0.3" in caplog.text
    assert "s: its inference.sensitivity of 0.2 is not taken, but 0.7" in caplog.text
    assert "nms_radius" not in caplog.text
    caplog.clear()
    assert pair_of(first, first) == read_recipe("nano", first)
    assert not caplog.text


def test_a_pair_has_the_name_of_its_segmentors_size_and_the_classes_of_the_network_that_tells_them():
    assert manifest_of(pair_of({"size": "B"}, {"size": "H"}, "kumar")).model == "H"
    assert pair_of({}, {"classes": ["a"]}).classes == ["nucleus"]
    assert pair_of(TOLD, TOLD | {"classes": ["d", "e", "f"]}).classes == ["d", "e", "f"]


def test_the_threads_of_a_prediction_are_pytorchs(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(pairs, "load_pair", lambda *_: (None, None, read_recipe("nano")))
    open_checkpoints(Path("p"), Path("s"), Options(threads=3))
    open_checkpoints(Path("p"), Path("s"), Options())
    assert set_to == [3]


def test_two_networks_of_other_resolutions_are_no_pair():
    with pytest.raises(PnsegError, match=r"0\.25 µm per pixel, the other at 0\.5"):
        pair_of({}, {"mpp": 0.5})
