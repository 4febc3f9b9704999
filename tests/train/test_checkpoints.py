import json

import pytest
import torch
from safetensors import SafetensorError

from pnseg_runtime.errors import PnsegError
from pnseg_train import checkpoints
from pnseg_train.checkpoints import (
    CARD,
    WEIGHTS,
    Card,
    build,
    load_checkpoint,
    read_card,
    replace_recipe,
    save_checkpoint,
)
from pnseg_train.finder import held_out
from pnseg_train.inference import validation_split
from pnseg_train.recipes import read_recipe

PARTS = ("prompter", "segmentor")


@pytest.fixture
def saved(tmp_path):
    card = Card(network="segmentor", recipe=read_recipe("nano"), step=7, metrics={"iou": 0.5})
    network = build(card)
    save_checkpoint(tmp_path / "best", network, card)
    return tmp_path / "best", network, card


def test_a_checkpoint_comes_back_as_it_was_saved(saved):
    folder, network, card = saved
    loaded, loaded_card = load_checkpoint(folder)
    assert loaded_card == card
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert not loaded.training


def test_a_checkpoint_is_tensors_and_json_only(saved):
    folder, *_ = saved
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    json.loads((folder / CARD).read_text())


def test_weights_of_another_network_are_refused(saved):
    folder, _, card = saved
    (folder / CARD).write_text(card.model_copy(update={"network": "prompter"}).model_dump_json())
    with pytest.raises(PnsegError, match="do not fit"):
        load_checkpoint(folder)


def test_another_recipe_goes_into_both_cards_of_a_shared_pair_and_nothing_else_changes(tmp_path):
    card = Card(network="prompter", recipe=read_recipe("nano"), step=7, metrics={"f1": 0.5})
    for half in ("prompter", "segmentor"):
        (tmp_path / half).mkdir()
        (tmp_path / half / CARD).write_text(card.model_copy(update={"network": half}).model_dump_json())
    other = read_recipe("nano", {"inference.nms_radius": 7})
    replace_recipe(tmp_path, other)
    for half in ("prompter", "segmentor"):
        assert read_card(tmp_path / half) == card.model_copy(update={"network": half, "recipe": other})
    replace_recipe(tmp_path / "none", other)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [CARD, CARD, "prompter", "segmentor"]


def test_truncated_weights_are_refused(saved):
    folder, *_ = saved
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(PnsegError, match=WEIGHTS):
        load_checkpoint(folder)


def test_an_error_that_says_nothing_is_named_by_its_kind(saved, monkeypatch):
    def fails(_):
        raise SafetensorError

    monkeypatch.setattr(checkpoints, "load_file", fails)
    with pytest.raises(PnsegError, match=r"not readable weights \(SafetensorError\); give"):
        load_checkpoint(saved[0])


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(PnsegError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


def saved_with(folder, network, split):
    recipe = read_recipe("nano", {"splits": {"train": "train", "val": split}})
    folder.mkdir(parents=True)
    (folder / CARD).write_text(Card(network=network, recipe=recipe).model_dump_json())
    return folder


@pytest.mark.parametrize(("splits", "told"), [
    (("213:val", "213:val"), None), (("val", "213:val"), "each held out another"), (("none", "none"), "no images held")
])  # fmt: skip
def test_what_a_pair_was_not_trained_on_is_what_both_held_out(tmp_path, splits, told):
    pair = [saved_with(tmp_path / part, part, split) for part, split in zip(PARTS, splits, strict=True)]
    if told is None:
        assert validation_split(*pair) == held_out([str(part) for part in pair]) == splits[0]
        return
    with pytest.raises(PnsegError, match=rf"{told}.*give --split"):
        validation_split(*pair)


def test_a_bundle_does_not_say_what_it_was_not_trained_on():
    assert held_out(["nano"]) == "val"
