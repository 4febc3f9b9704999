import json

import pytest
from click.testing import CliRunner
from PIL import Image

from pnseg_runtime.cli import cli
from tests import golden
from tests.train.datasets.made import boxes_map, pannuke_masks, picture, write_fold, write_index, write_plain


def run(*arguments):
    return CliRunner().invoke(cli, ["data", "check", *map(str, arguments)])


def test_a_sound_set_is_named_and_drawn(tmp_path):
    result = run(golden.TILES, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("plain folder")
    assert "nothing wrong" in result.stdout
    with Image.open(tmp_path / "cc0_tiles.check.png") as sheet:
        assert sheet.size == (4 * 512, 2 * 540)  # six tiles


def test_the_json_holds_layout_numbers_and_findings(tmp_path):
    for number in (1, 2):
        masks = pannuke_masks(number)
        write_fold(tmp_path / "PanNuke", number, masks, ["Breast"] * number)
    result = run(tmp_path / "PanNuke", "--out", tmp_path, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["sound"], report["layout"]) == (0, True, "pannuke")
    assert report["splits"]["train"] == {
        "images": 1,
        "nuclei": 3,
        "at_border": 0,
        "median_diameter_px": pytest.approx(4.51, abs=0.01),
    }
    assert report["splits"]["val"]["images"] == 2
    assert len(report["classes"]) == 5


def test_a_leak_is_exit_code_1(tmp_path):
    for seed, name in enumerate("ab"):
        write_plain(tmp_path, name, picture(seed=seed), boxes_map({1: (3, 3, 9, 9)}))
    write_index(tmp_path, [("a", "train", "patient7"), ("b", "val", "patient7")])
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "split leakage: 1" in result.stdout
    assert "patient7" in result.stdout
    report = json.loads(run(tmp_path, "--out", tmp_path / "out", "--json").stdout)
    assert [(f["kind"], f["fatal"]) for f in report["findings"]] == [("split leakage", True)]


def test_a_folder_of_no_known_layout_is_one_sentence(tmp_path):
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "none of the known layouts" in result.stderr
    assert not (tmp_path / "out").exists()
