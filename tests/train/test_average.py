"""The mean of checkpoints: every weight, and what cannot be joined is refused."""

import pytest
import torch
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_train.checkpoints import Card, build, load_checkpoint, save_checkpoint, weights_digest
from pnseg_train.recipes import read_recipe


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Two prompters and a segmentor."""
    folder = tmp_path_factory.mktemp("steps")
    for seed, (name, part) in enumerate({"best": "prompter", "last": "prompter", "other": "segmentor"}.items()):
        torch.manual_seed(seed)
        card = Card(network=part, recipe=read_recipe("nano"), step=seed, metrics={"pq": 0.5})
        network = build(card)
        for counter, value in network.state_dict().items():
            if "num_batches_tracked" in counter:
                value.fill_(seed)
        save_checkpoint(folder / name, network, card)
    return folder


def run(*arguments):
    return CliRunner().invoke(cli, ["average", *map(str, arguments)])


def test_every_weight_is_the_mean_and_the_card_names_both(steps, tmp_path):
    (tmp_path / "mean").mkdir()  # empty, so there is nothing to lose
    result = run(steps / "best", steps / "last", "--out", tmp_path / "mean")
    assert result.exit_code == 0, result.output
    (first, _), (second, _), (mean, card) = (
        load_checkpoint(folder) for folder in (steps / "best", steps / "last", tmp_path / "mean")
    )
    assert card.averaged == [weights_digest(steps / name) for name in ("best", "last")]
    assert card.step == 1
    assert card.metrics == {}, "nobody has measured it"
    for name, tensor in mean.state_dict().items():
        a, b = first.state_dict()[name], second.state_dict()[name]
        expected = (a + b) / 2 if a.is_floating_point() else b
        assert torch.equal(tensor, expected), name


def test_what_has_no_mean_is_refused_in_a_sentence_and_nothing_is_written(steps, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for arguments, said in (
        ((steps / "best",), "give two or more"),
        ((steps / "other", steps / "last"), "of another architecture"),
        ((steps / "best", tmp_path), "model.json"),
    ):
        result = run(*arguments, "--out", tmp_path / "mean")
        assert result.exit_code == 1
        assert said in result.stderr.replace("\n", " "), result.stderr
        assert not (tmp_path / "mean").exists()
    assert "is there already" in run(steps / "best", steps / "last", "--out", tmp_path / "full").stderr
