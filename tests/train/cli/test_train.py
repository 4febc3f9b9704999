import pytest
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from tests import golden
from tests.train.datasets.made import pannuke_masks, write_fold


def run(data, out, *arguments):
    return CliRunner().invoke(cli, ["train", "prompter", "--data", str(data), "--out", str(out), *arguments])


@pytest.mark.parametrize("option", ["--train-split", "--val-split"])
def test_a_split_that_is_not_there_is_one_sentence(option, tmp_path):
    result = run(golden.TILES, tmp_path / "run", option, "best")
    assert result.exit_code == 1
    assert "no image of the split 'best'" in result.stderr


def test_classes_that_are_not_the_recipes_are_one_sentence(tmp_path):
    for number in (1, 2):
        write_fold(tmp_path, number, pannuke_masks(number), ["Breast"] * number)
    two = ("--set", "classes=[a, b]", "--set", "colors=[[1, 2, 3], [4, 5, 6]]")
    result = run(tmp_path, tmp_path / "run", *two)
    assert result.exit_code == 1
    assert "its nuclei have the classes [1, 4], the model has 1 to 2" in result.stderr
