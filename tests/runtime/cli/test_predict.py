"""pnseg predict: what it reads, asks of the model and writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import tifffile
from PIL import Image

from pnseg_runtime.cli.group import load_verb
from pnseg_runtime.cli.verbs import VERBS
from pnseg_runtime.outputs import KINDS
from tests.runtime.cli.command import ROOT, run
from tests.runtime.made import SAMPLES, dark_spots, sample


def test_the_page_of_predict_has_the_options_of_its_help_and_no_others() -> None:
    page = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(--[a-z-]+)`", page, re.MULTILINE))
    command = load_verb(next(verb for verb in VERBS if verb.name == "predict"))
    options = {(*option.secondary_opts, *option.opts)[0] for option in command.params}
    assert told == {name for name in options if name.startswith("--")}


def test_a_folder_gives_all_outputs_of_its_images(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    stems = sorted(path.stem for path in SAMPLES.glob("*.png"))
    expected = sorted(f"{stem}{kind.suffix}" for stem in stems for kind in KINDS.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert len(loaded["model"].asked) == len(stems) == 6


def test_outputs_hold_the_nuclei_of_the_model(loaded: dict[str, Any], tmp_path: Path) -> None:
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path)
    nuclei = dark_spots(sample("he_pink"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "he_pink.labels.tif"), nuclei.instance_map())
    assert pyarrow.csv.read_csv(tmp_path / "he_pink.csv").num_rows == len(nuclei)
    features = json.loads((tmp_path / "he_pink.geojson").read_text(encoding="utf-8"))["features"]
    assert len(features) == len(nuclei)


def test_only_the_kinds_asked_for_are_written(loaded: dict[str, Any], tmp_path: Path) -> None:
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--only", "labels,geojson")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["he_pink.geojson", "he_pink.labels.tif"]


@pytest.mark.parametrize("kinds", ["masks", "labels,masks", ""])
def test_an_unknown_kind_is_wrong_usage_and_lists_the_known(kinds: str, loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES, "--out", tmp_path, "--only", kinds)
    assert result.exit_code == 2
    assert "choose from labels, geojson, csv, parquet, overlay" in result.stderr.replace("\n", " ")


def test_options_reach_the_model_only_when_they_are_given(loaded: dict[str, Any], tmp_path: Path) -> None:
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path)
    assert (loaded["bundle"], loaded["options"]) == ("nano", {"backend": "onnxruntime"})
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--bundle", "b", "--threads", 2, "--negatives", 0)
    assert (loaded["bundle"], loaded["options"]) == ("b", {"backend": "onnxruntime", "threads": 2, "negatives": 0})
    run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--assignment", "all")
    assert loaded["options"] == {"backend": "onnxruntime", "assignment": "all"}


def test_12_bits_in_a_16_bit_file_are_warned_of_and_predicted(loaded: dict[str, Any], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "tile.tif", sample().astype(np.uint16) * 16, photometric="rgb")
    result = run("predict", tmp_path / "tile.tif", "--out", tmp_path / "out")
    (warning,) = result.stderr.splitlines()
    assert result.exit_code == 0
    assert warning.startswith(f"Warning: {tmp_path / 'tile.tif'}: its 16-bit samples reach only")


def test_the_users_mpp_goes_before_the_files(loaded: dict[str, Any], tmp_path: Path) -> None:
    image = tmp_path / "tile.tif"
    tifffile.imwrite(image, sample(), photometric="rgb", description="Aperio|MPP = 0.5", metadata=None)
    for options in ([], ["--mpp", "0.25"]):
        assert run("predict", image, "--out", tmp_path / "out", *options).exit_code == 0
    assert [mpp for _, mpp in loaded["model"].asked] == [0.5, 0.25]


def test_a_likely_mpp_is_for_files_that_state_none(loaded: dict[str, Any], tmp_path: Path) -> None:
    stated, silent = tmp_path / "stated.tif", tmp_path / "silent.png"
    tifffile.imwrite(stated, sample(), photometric="rgb", description="Aperio|MPP = 0.5", metadata=None)
    Image.fromarray(sample()).save(silent)
    assert run("predict", stated, silent, "--out", tmp_path / "out", "--mpp", "auto").exit_code == 0
    assert [mpp for _, mpp in loaded["model"].asked] == [0.5, None, 0.375]


@pytest.mark.parametrize(("options", "asked"), [
    ([], [None, 0.375]), (["--mpp", "model"], [None]), (["--mpp", "0.3"], [0.3])
])  # fmt: skip
def test_the_bundle_says_what_files_of_unknown_resolution_are_taken_for(
    loaded: dict[str, Any], tmp_path: Path, options: list[str], asked: list[float | None]
) -> None:
    loaded["model"].unknown_mpp = "auto"
    result = run("predict", SAMPLES / "he_pink.png", "--out", tmp_path, "--only", "csv", *options)
    assert result.exit_code == 0, result.output
    assert [mpp for _, mpp in loaded["model"].asked] == asked
    assert ("Seen 1.5 times enlarged" in result.stdout) == (len(asked) == 2)


def test_folders_inside_are_looked_into_only_when_asked(loaded: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(sample()).save(tmp_path / "in" / "a.png")
    Image.fromarray(sample()).save(tmp_path / "in" / "deep" / "b.PNG")
    out = tmp_path / "out"
    for options, names in (([], ["a.csv"]), (["--recursive"], ["a.csv", "deep/b.csv"])):
        run("predict", tmp_path / "in", "--out", out, "--only", "csv", "--overwrite", *options)
        assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == names


def test_a_file_named_twice_is_predicted_once(loaded: dict[str, Any], tmp_path: Path) -> None:
    result = run("predict", SAMPLES / "he_pink.png", SAMPLES, SAMPLES / "he_pink.png", "--out", tmp_path)
    assert result.exit_code == 0
    assert len(loaded["model"].asked) == 6
