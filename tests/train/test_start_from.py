"""Training that starts from a checkpoint, and what starts anew."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import save_checkpoint, start_from
from pnseg_train.models.prompter import Prompter
from tests.train.small import made

pytestmark = pytest.mark.usefixtures("one_thread")


def test_tuning_to_other_classes_starts_the_class_heads_anew_and_keeps_all_else(tmp_path):
    one, card = made("prompter", {})
    save_checkpoint(tmp_path, one, card)
    three = {"classes": ["a", "b", "c"], "colors": [[1, 1, 1]] * 3}
    other, other_card = made("prompter", three)
    for tensor in other.state_dict().values():
        tensor.add_(1)
    fresh = start_from(tmp_path, other, other_card)
    assert fresh == ["cls_head.layers.3.weight", "cls_head.layers.3.bias"]
    own = one.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in other.state_dict().items() if name not in fresh)


@pytest.mark.parametrize(
    ("names", "anew"),
    [(["one", "two"], False), (["One", "t-w-o"], False), (["two", "one"], True), (["one", "three"], True)],
)
@pytest.mark.parametrize(
    ("network", "heads"),
    [
        ("prompter", ["cls_head.layers.3.weight", "cls_head.layers.3.bias"]),
        ("segmentor", ["mask_decoder.class_token.weight", "mask_decoder.class_head."]),
    ],
)
def test_class_heads_start_anew_where_as_many_classes_have_other_names_or_another_order(
    network, heads, names, anew, tmp_path
):
    def told(classes):
        return made(network, {"classes": classes, "colors": [[1, 1, 1]] * len(classes), "class_by": network})

    one, card = told(["one", "two"])
    save_checkpoint(tmp_path, one, card)
    other, other_card = told(names)
    for tensor in other.state_dict().values():
        tensor.add_(1)
    fresh = start_from(tmp_path, other, other_card)
    assert bool(fresh) == anew
    assert all(name.startswith(tuple(heads)) for name in fresh)
    own, kept = one.state_dict(), other.state_dict()
    assert all(torch.equal(tensor, own[name]) == (name not in fresh) for name, tensor in kept.items())


def test_tuning_a_network_of_another_region_width_starts_the_region_branch_anew_and_keeps_all_else(tmp_path):
    one, card = made("prompter", {})
    wide = Prompter(one.backbone.backbone, 80, one.levels, one.spacing, one.num_classes, region_channels=48)
    save_checkpoint(tmp_path, wide, card)
    fresh = start_from(tmp_path, one, card)
    assert fresh
    assert all(name.startswith(("backbone.neck1.", "mask_head.")) for name in fresh)
    own, given = one.state_dict(), wide.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in given.items() if name not in fresh)


def test_a_checkpoint_without_its_region_branch_is_refused(tmp_path):
    one, card = made("prompter", {})
    kept = {name: tensor for name, tensor in one.state_dict().items() if not name.startswith("mask_head.")}
    save_checkpoint(tmp_path, one, card)
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(PnsegError, match="do not fit the network"):
        start_from(tmp_path, *made("prompter", {}))
