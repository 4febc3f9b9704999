"""Published checkpoints: recognised, filled in whole, or refused with what does not fit."""

import json
import pickle

import pytest
import torch
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.errors import PnsegError
from pnseg_train import published
from pnseg_train.checkpoints import Card, build, load_checkpoint
from pnseg_train.models.sizes import PROMPTER_SIZES, PrompterSize, build_prompter, build_segmentor
from pnseg_train.published import MisfitError, fill, misfits, read_state, recipe_of, recognise
from pnseg_train.recipes import read_recipe
from tests import golden
from tests.train.models.test_golden import load_prompter


def meta_state(build_network, *arguments, **named):
    with torch.device("meta"):
        return build_network(*arguments, **named).state_dict()


@pytest.mark.parametrize("size", ["B", "L", "H"])
def test_a_sam_is_recognised_with_its_size(size, tmp_path):
    state = meta_state(build_segmentor, size)
    kind = recognise(tmp_path, state)
    assert kind.network == "segmentor"
    assert recipe_of(kind, state).size == size


@pytest.mark.parametrize(("levels", "classes", "spacing"), [(3, 5, 8), (4, 1, 16)], ids=["PanNuke", "Kumar and CPM-17"])
def test_a_prompter_is_recognised_with_its_levels_classes_and_spacing(levels, classes, spacing, tmp_path):
    state = meta_state(build_prompter, "B", levels=levels, spacing=99, num_classes=classes)
    kind = recognise(tmp_path, state)
    assert kind.network == "prompter"
    recipe = recipe_of(kind, state)
    assert (recipe.prompter.levels, len(recipe.classes), recipe.prompter.spacing) == (levels, classes, spacing)
    assert recipe_of(kind, state, "cpm17", {"prompter.levels": levels}).prompter.spacing == 16


def test_other_numbers_of_classes_are_named_by_their_number(tmp_path):
    state = meta_state(build_prompter, "B", levels=3, spacing=8, num_classes=2)
    assert recipe_of(recognise(tmp_path, state), state).classes == ["class 1", "class 2"]


@pytest.fixture
def small_prompter(monkeypatch):
    """The golden checkpoint's small backbone in the place of ConvNeXt-S."""
    config = golden.document("prompter_pannuke")["config"]
    from pnseg_train.models.backbones import ConvNeXtFeatures

    depths, dims = (tuple(config["backbone"][name]) for name in ("depths", "dims"))
    monkeypatch.setitem(
        PROMPTER_SIZES,
        "B",
        PrompterSize(lambda _: ConvNeXtFeatures(depths, dims), config["hidden_dim"], config["hidden_dim"]),
    )
    return "prompter_pannuke"


def run(*arguments):
    return CliRunner().invoke(cli, ["import", *map(str, arguments)])


def test_a_published_prompter_becomes_a_checkpoint_that_gives_its_numbers(small_prompter, tmp_path):
    file = golden.save_checkpoint(small_prompter, tmp_path / "prompter.pth")
    result = run(file, "--out", tmp_path / "native")
    assert result.exit_code == 0, result.output
    assert "the authors' prompter" in result.stdout
    assert "λ 8, L 3" in result.stdout
    network, card = load_checkpoint(tmp_path / "native")
    assert card.imported.startswith("prompter.pth ")
    image = torch.from_numpy(golden.arrays(small_prompter)["image_1"])
    with torch.no_grad():
        torch.testing.assert_close(network(image).points, load_prompter(small_prompter)(image).points)
    assert sorted(path.name for path in (tmp_path / "native").iterdir()) == ["model.json", "model.safetensors"]
    again = run(file, "--out", tmp_path / "native")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr


def test_missing_and_unexpected_tensors_are_refused_with_a_table(small_prompter, tmp_path):
    checkpoint = golden.checkpoint(small_prompter)
    del checkpoint["model"]["conv.bias"]
    checkpoint["model"]["extra.weight"] = torch.zeros(2, 3)
    checkpoint["model"]["reg_head.layers.0.bias"] = torch.zeros(7)
    torch.save(checkpoint, tmp_path / "odd.pth")
    result = run(tmp_path / "odd.pth", "--out", tmp_path / "native")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert any("conv.bias" in line and "missing" in line and "64" in line for line in lines)
    assert any("extra.weight" in line and "2 × 3" in line and "unexpected" in line for line in lines)
    assert any("reg_head.layers.0.bias" in line and " 7 " in line for line in lines)
    assert "1 tensors are missing, 1 unexpected and 1 of another shape" in lines[-1]
    assert not (tmp_path / "native").exists()


def test_a_sam_without_its_decoder_misses_just_that():
    network = build(Card(network="segmentor", recipe=read_recipe("nano")))
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("mask_decoder.iou")}
    assert {name for name, *_ in misfits(state, network.state_dict())} == {
        name for name in network.state_dict() if name.startswith("mask_decoder.iou")
    }


@pytest.mark.slow
def test_metas_sam_of_size_b_fills_a_native_checkpoint_whole(tmp_path):
    network = build_segmentor("B")
    state = network.state_dict()
    # Meta's files are the bare state dict; SAM's own normalisation is not in them, but harmless.
    torch.save({**state, "pixel_mean": torch.zeros(3, 1, 1)}, tmp_path / "sam_vit_b.pth")
    read = read_state(tmp_path / "sam_vit_b.pth")
    kind = recognise(tmp_path, read)
    filled, card = fill(tmp_path / "sam_vit_b.pth", kind, read, recipe_of(kind, read))
    assert card.recipe.size == "B"
    own = filled.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name]) for name in state)


def test_a_sam_of_an_unknown_width_names_the_known_ones(tmp_path):
    file = golden.save_checkpoint("segmentor_tiny", tmp_path / "tiny.pth")
    result = run(file, "--out", tmp_path / "native")
    assert result.exit_code == 1
    assert "width 96" in result.stderr
    assert "B (768)" in result.stderr


class Evil:
    def __reduce__(self):
        return (print, ("unpickled!",))


def test_nothing_but_tensors_is_unpickled(tmp_path, capsys):
    torch.save({"model": {"a": torch.zeros(1)}, "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(PnsegError, match="never unpickled"):
        read_state(tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(PnsegError, match=r"bare\.pth"):
        read_state(tmp_path / "bare.pth")
    assert "unpickled!" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK nonsense"])
def test_a_damaged_file_is_one_sentence(content, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(PnsegError, match=r"damaged\.pth"):
        read_state(tmp_path / "damaged.pth")


def test_other_networks_are_not_taken_for_known_ones(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.pth")
    result = run(tmp_path / "resnet.pth", "--out", tmp_path / "native")
    assert result.exit_code == 1
    assert "neither the authors' prompter nor a SAM" in result.stderr
    assert "fc.weight" in result.stderr


def test_names_from_training_on_several_devices_lose_their_prefix(tmp_path):
    torch.save({"state_dict": {"module.a": torch.ones(1)}}, tmp_path / "ddp.pth")
    assert read_state(tmp_path / "ddp.pth") == {"a": torch.ones(1)}


def test_a_misfit_keeps_its_rows():
    error = MisfitError("x", [("a", "1", published.NONE)])
    assert json.loads(json.dumps(error.rows)) == [["a", "1", "–"]]
