import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from pnseg_runtime.cli import cli
from pnseg_train.cli import train as verb
from pnseg_train.datasets import read_folder
from pnseg_train.inference import open_checkpoints
from tests import golden
from tests.train.datasets.made import boxes_map, pannuke_masks, picture, write_fold, write_index, write_plain, write_png
from tests.train.datasets.test_layouts import consep


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


def test_a_data_set_of_other_classes_is_refused_even_if_it_has_fewer(tmp_path):
    consep(tmp_path / "CoNSeP")
    result = run(tmp_path / "CoNSeP", tmp_path / "run", "--recipe", "pannuke-123", *SPLITS)
    assert result.exit_code == 1
    assert "has the classes miscellaneous, inflammatory, epithelial, spindle-shaped, the model" in result.stderr
    result = run(golden.TILES, tmp_path / "run", "--recipe", "pannuke-123", *SPLITS)
    assert result.exit_code == 1
    assert "no folder classes/" in result.stderr


@pytest.mark.parametrize("groups", [True, False])
def test_validation_on_images_of_the_training_is_refused_and_none_is_offered(groups, tmp_path):
    for seed, name in enumerate("ab"):
        write_plain(tmp_path, name, picture(seed=seed), boxes_map({1: (1, 1, 9, 9)}))
    rows = [("a", "train", "g"), ("b", "val", "g")] if groups else [("a", "train", ""), ("b", "val", "")]
    write_index(tmp_path, rows)
    result = run(tmp_path, tmp_path / "run", *(() if groups else ("--train-split", "train+val")))
    assert result.exit_code == 1
    assert ("one group (g)" if groups else "1 images, b one of them") in result.stderr
    assert "--val-split none" in result.stderr


class Built(Exception):
    """Nothing was refused, and a network was to be built."""


@pytest.fixture
def untrained(monkeypatch):
    """Commands end where they would build a network."""

    def build(*_):
        raise Built

    monkeypatch.setattr(verb, "build", build)
    monkeypatch.setattr(verb, "build_pair", build)


def two_sets(folder, *rows):
    """Options for two data sets, and the sets: rows of (set, name, seed of the picture, split, group)."""
    for name in "AB":
        own = [row[1:] for row in rows if row[0] == name]
        for image, seed, _, _ in own:
            write_plain(folder / name, image, picture(seed=seed), boxes_map({1: (1, 1, 9, 9)}))
        write_index(folder / name, [(image, split, group) for image, _, split, group in own])
    return ["--data", str(folder / "B"), "--no-pretrained"]


def test_an_image_that_two_sets_hold_under_two_names_is_refused_in_both_splits(tmp_path, untrained):
    rows = [("A", "x", 0, "train", ""), ("A", "y", 1, "val", ""), ("B", "p", 2, "train", ""), ("B", "q", 0, "val", "")]
    result = run(tmp_path / "A", tmp_path / "run", *two_sets(tmp_path, *rows))
    assert result.exit_code == 1
    said = f"{tmp_path / 'B'}: 1 images, q (the same pixels as {tmp_path / 'A'}: x) one of them, stand both in the"
    assert said in result.stderr


def test_the_same_image_at_two_resolutions_is_the_same_image(tmp_path, untrained):
    for name in "ab":
        write_plain(tmp_path, name, picture(), boxes_map({1: (1, 1, 19, 19)}))
    (tmp_path / "index.csv").write_text("id,split,mpp\na,train,0.5\nb,val,0.25\n")
    result = run(tmp_path, tmp_path / "run")
    assert result.exit_code == 1
    assert f"1 images, b (the same pixels as {tmp_path}: a) one of them" in result.stderr


@pytest.mark.parametrize(("patient", "refused"), [("1", False), ("TCGA-A7-A13E", True)])
def test_sets_that_number_their_patients_alike_are_no_leak_but_patients_of_tcga_are(
    patient, refused, tmp_path, untrained
):
    rows = [
        *(("A", "x", 0, "train", patient), ("A", "y", 1, "val", "2")),
        *(("B", "p", 2, "train", "3"), ("B", "q", 3, "val", patient)),
    ]
    options = two_sets(tmp_path, *rows)
    result = run(tmp_path / "A", tmp_path / "run", *options)
    assert isinstance(result.exception, SystemExit if refused else Built)
    assert (f"images of one group ({patient}) stand both" in result.stderr) == refused
    if refused:  # barcodes that go on to sample and slide are of their patient
        written = two_sets(tmp_path, *[(*row[:4], f"{patient}-0{number}Z-00-DX1") for number, row in enumerate(rows)])
        result = run(tmp_path / "A", tmp_path / "run", *written)
        assert f"images of one group ({patient}) stand both" in result.stderr
    # One set by two names is one set.
    (tmp_path / "link").symlink_to(tmp_path / "A")
    write_index(tmp_path / "A", [("x", "train", "1"), ("y", "val", "1")])
    result = run(tmp_path / "link", tmp_path / "run", "--data", str(tmp_path / "A"))
    assert "images of one group (1) stand both" in result.stderr


@pytest.mark.parametrize(("network", "refused"), [("prompter", False), ("segmentor", True), ("shared", True)])
def test_a_validation_split_whose_nuclei_are_too_small_to_be_prompted_is_refused(network, refused, tmp_path, untrained):
    write_plain(tmp_path, "a", picture(seed=0), boxes_map({1: (1, 1, 9, 9)}))
    write_plain(tmp_path, "b", picture(seed=1), boxes_map({1: (1, 1, 4, 6), 2: (20, 20, 23, 23)}))
    write_index(tmp_path, [("a", "train", ""), ("b", "val", "")])
    result = CliRunner().invoke(cli, ["train", network, "--data", str(tmp_path), "--out", str(tmp_path / "run")])
    assert isinstance(result.exception, SystemExit if refused else Built)
    assert ("of the validation split val are all too small to be prompted" in result.stderr) == refused


def test_a_validation_split_without_a_nucleus_is_refused(tmp_path):
    write_plain(tmp_path, "a", picture(seed=0), boxes_map({1: (1, 1, 9, 9)}))
    write_plain(tmp_path, "b", picture(seed=1), boxes_map({}))
    write_index(tmp_path, [("a", "train", ""), ("b", "val", "")])
    result = run(tmp_path, tmp_path / "run")
    assert result.exit_code == 1
    assert "the validation split val has no nucleus" in result.stderr


def test_imagenet_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch, tmp_path):
    def offline(name, pretrained):
        raise ConnectionError(f"no network for {name}")

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("pnseg_train.models.sizes.ConvNeXtFeatures", torch.nn.Identity)
    result = run(golden.TILES, tmp_path / "run", "--recipe", "kumar", *SPLITS)
    assert result.exit_code == 1
    assert "cannot be fetched (ConnectionError: no network for convnext_small)" in result.stderr


SPLITS = ("--train-split", "train", "--val-split", "val")
SMALL = {
    "augment.crop": 64,
    "prompter.plan.steps": 2,
    "prompter.plan.batch": 2,
    "prompter.plan.warmup": 0,
    "prompter.plan.ema_from": 0,
}


@pytest.mark.slow
def test_a_seeded_run_repeats_bit_for_bit_and_leaves_all_that_the_docs_name(tmp_path):
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    for name, more in (("first", []), ("again", ["--workers", "1"])):
        result = run(golden.TILES, tmp_path / name, *settings, "--no-pretrained", "--threads", "1", *more)
        assert result.exit_code == 0, result.output
    first, again = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    logged = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("first", "again")
    ]
    assert logged[0] == logged[1]
    there = {path.name for path in (tmp_path / "first").iterdir()}
    assert there == {
        *("recipe.yaml", "environment.json", "metrics.jsonl", "train.log", "curves.png", "state.pt"),
        *("best", "last", "tensorboard"),
    }
    assert scalars(tmp_path / "first" / "tensorboard") >= {"lr", "loss/loss", "loss/class", "validation/f1"}


@pytest.mark.slow
def test_a_run_without_validation_keeps_its_last_step(tmp_path):
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    for _ in range(2):  # the second time there is nothing left to do
        result = run(golden.TILES, tmp_path, *settings, *("--no-pretrained", "--threads", "1", "--val-split", "none"))
        assert result.exit_code == 0, result.output
        assert f"{tmp_path / 'last'}: step 2" in result.stdout.replace("\n", "")
    assert not (tmp_path / "best").exists()
    assert (tmp_path / "curves.png").is_file()


def small_settings(**more):
    return [part for name, value in {**SMALL, **more}.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture
def told_apart(tmp_path):
    """A plain folder of real tiles, all of whose nuclei are of the first class."""
    shutil.copytree(golden.TILES, tmp_path / "tiles")
    for path in (tmp_path / "tiles" / "labels").glob("*.png"):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write_png(tmp_path / "tiles" / "classes" / path.name, (labels > 0).astype(np.uint8))
    return tmp_path / "tiles"


TWO_CLASSES = {"classes": "[round, flat]", "colors": "[[1, 2, 3], [4, 5, 6]]"}


@pytest.mark.slow
def test_a_training_tells_what_it_does_on_standard_error_and_in_its_log(told_apart, tmp_path):
    out = tmp_path / "run"
    arguments = [*("--data", told_apart, "--out", out, "--no-pretrained", "--threads", "1"), *small_settings()]
    arguments += [part for name, value in TWO_CLASSES.items() for part in ("--set", f"{name}={value}")]
    runs = [
        subprocess.run(
            [sys.executable, "-m", "pnseg_runtime.cli", "train", "prompter", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]
    warning = f"WARNING pnseg_train.material: {told_apart}: no nucleus of the split train is of the class flat"
    assert warning in runs[0].stderr
    assert re.search(r"^INFO pnseg_train\.\w+: step 2: precision \d\.\d{4}, recall .*, f1 ", runs[0].stderr, re.M)
    assert f"INFO pnseg_train.fit: resumed {out} at step 2" in runs[1].stderr
    assert all("step 2" in done.stdout and len(done.stdout.splitlines()) == 1 for done in runs)
    logged = [line.split(" ", 2)[2] for line in (out / "train.log").read_text().splitlines()]  # without date and time
    told = [re.findall(r"^(INFO|WARNING) pnseg_train\.\S+: (.*)$", done.stderr, re.M) for done in runs]
    assert logged == [f"{level} {words}" for part in told for level, words in part]


def test_warnings_of_every_package_are_seen_and_libraries_are_not():
    code = """
import logging
from pnseg_runtime.cli.log import configure
configure(verbose=False)
for name in ("pnseg.slide", "pnseg_runtime.x", "pnseg_train.inference", "pnseg_export.x", "tifffile"):
    logging.getLogger(name).warning("of %s", name)
    logging.getLogger(name).info("not told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ("pnseg.slide", "pnseg_runtime.x", "pnseg_train.inference", "pnseg_export.x")
    assert done.stderr.splitlines() == [f"WARNING {name}: of {name}" for name in names]


@pytest.mark.slow
def test_a_shared_encoder_is_trained_stopped_at_will_and_predicts(tmp_path):
    out = tmp_path / "run"
    small = ("segmentor.plan.batch=1", "segmentor.plan.warmup=0", "segmentor.plan.precision=32-true")
    settings = [part for text in (*small, "segmentor.plan.steps=1") for part in ("--set", text)]
    arguments = ["train", "shared", "--data", str(golden.TILES), "--out", str(out), "--no-pretrained", *settings]
    for _ in range(2):  # the second time there is nothing left to do
        result = CliRunner().invoke(cli, [*arguments, "--threads", "1"])
        assert result.exit_code == 0, result.output
        assert "both" in result.stdout
    segmenter = open_checkpoints(out / "best" / "prompter", out / "best" / "segmentor")
    nuclei = segmenter.predict(read_folder(golden.TILES, "val")[0].image)
    assert nuclei.shape == (256, 320)


@pytest.mark.parametrize("network", ["segmentor", "shared"])
@pytest.mark.parametrize("size", ["B", "L", "H"])
def test_a_sam_is_neither_started_from_random_weights_unawares_nor_shared(network, size, tmp_path, untrained):
    arguments = ["--recipe", "kumar", "--set", f"size={size}", "--set", "inference.pad_multiple=32"]
    arguments += ["--data", str(golden.TILES), "--out", str(tmp_path / "run")]
    if network == "shared":
        says, arguments = (
            f"one image encoder of size {size} for both networks cannot be exported",
            [
                *arguments,
                "--no-pretrained",
            ],
        )
    else:
        says = f"pnseg import sam_vit_{size.lower()}.pth"
    result = CliRunner().invoke(cli, ["train", network, *arguments])
    assert result.exit_code == 1
    assert says in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "fetched"), [([], True), (["--no-pretrained"], False), (["--init", "x"], False), (["state.pt"], False)]
)
def test_imagenet_weights_are_fetched_only_where_nothing_replaces_them(given, fetched, tmp_path, monkeypatch):
    class Built(Exception):
        pass

    def build(card, pretrained):
        raise Built(pretrained)

    monkeypatch.setattr(verb, "build", build)
    if given == ["state.pt"]:
        (tmp_path / "state.pt").touch()
        given = []
    result = run(golden.TILES, tmp_path, *given)
    assert result.exception.args == (fetched,)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--devices", "0,1", "number of devices"), ("--devices", "0", "number"), ("--accelerator", "abacus", "abacus")],
)
def test_devices_that_are_not_understood_are_one_sentence(option, value, says, tmp_path):
    result = run(golden.TILES, tmp_path / "run", option, value, "--no-pretrained")
    assert result.exit_code == 1
    assert says in result.stderr
    assert not (tmp_path / "run").exists()


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return set(board.Tags()["scalars"])


@pytest.mark.parametrize(
    ("network", "setting", "says"),
    [
        ("segmentor", "segmentor.frozen=[image_encoder, prompt_encoder, mask_decoder]", "nothing is left to train"),
        ("prompter", "prompter.frozen=[backbone, points, region]", "nothing is left to train"),
        ("prompter", "shared_encoder=true", "pnseg train shared"),
        ("prompter", "prompter.region_weight=0", "region_filter must be false"),
        ("segmentor", "augment.crop=320", "augment.crop is 320, and a segmentor sees windows of 256 px alone"),
        ("shared", "augment.crop=128", "augment.crop is 128, and a segmentor sees windows of 256 px alone"),
        ("shared", "prompter.plan.lr=0.1", "set the fields of segmentor.plan instead"),
        ("shared", "prompter.plan={steps: 5}", "set the fields of segmentor.plan instead"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(network, setting, says, tmp_path):
    arguments = ["train", network, "--data", str(golden.TILES), "--out", str(tmp_path / "run"), "--set", setting]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert not (tmp_path / "run").exists()
