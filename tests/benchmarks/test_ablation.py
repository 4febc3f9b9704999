"""The ablation's rows as data, and that what is done is not done again."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from benchmarks import ablation
from benchmarks.__main__ import main
from benchmarks.ablation import AS_GIVEN, TABLE_6, TABLE_7, TRAININGS, Lab
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Settings
from pnseg_train.evaluate import Found, measure
from pnseg_train.inference import manifest_of, pair_recipe
from pnseg_train.recipes import read_recipe
from tests.train.test_evaluate_protocols import TWO, boxes_map, sample


def test_each_row_of_table_6_adds_one_part_to_the_row_above():
    first, tuned, auxiliary, filtered, negatives = TABLE_6
    assert (first.segmentor, first.prompter) == (AS_GIVEN, "prompter")
    assert (tuned.prompter, tuned.options) == (first.prompter, first.options)
    assert (auxiliary.segmentor, auxiliary.options) == (tuned.segmentor, tuned.options)
    assert (filtered.prompter, filtered.segmentor) == (auxiliary.prompter, auxiliary.segmentor)
    assert filtered.options == {"negatives": 0}  # the recipe's filter is on
    assert (negatives.prompter, negatives.options) == (filtered.prompter, {"negatives": 1})
    assert [case.paper for case in TABLE_6] == sorted(case.paper for case in TABLE_6)


def test_table_7_has_every_k_in_training_and_testing_with_both_kinds_of_points():
    assert len({(case.segmentor, case.options["negatives"], case.oracle) for case in TABLE_7}) == 18
    assert len({case.slug for case in (*TABLE_6, *TABLE_7)}) == 23


@pytest.mark.parametrize("key", TRAININGS)
def test_every_training_is_a_recipe_that_is_valid(key):
    training = TRAININGS[key]
    recipe = read_recipe(ablation.RECIPE, dict(training.fields))
    assert recipe.inference.region_filter == (recipe.prompter.region_weight > 0)


def write_checkpoint(folder, weights=b"weights", card="{}"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "model.json").write_text(card)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_checkpoint(tmp_path / "segmentor")

    def train(command, check):
        commands.append(command)
        write_checkpoint(Path(command[command.index("--out") + 1]) / "best")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(ablation.subprocess, "run", train)
    commands: list[list[str]] = []
    one = sample()

    class Run:
        results = (measure(one, Found.of_maps(boxes_map(TWO), None)),)

    def evaluate_run(split, model, folders, options, oracle, radius, mpp):
        evaluated.append((tuple(model), options, oracle, mpp))
        return Run

    evaluated: list = []
    monkeypatch.setattr(ablation, "evaluate_run", evaluate_run)
    lab = Lab(tmp_path / "data", tmp_path / "out", tmp_path / "segmentor", None, {"prompter": 7, "segmentor": 5})
    for key in TRAININGS:
        (tmp_path / "out" / key).mkdir(parents=True)
    return lab, commands, evaluated


def test_what_rows_share_is_trained_once_and_a_done_row_is_not_done_again(lab):
    lab, commands, evaluated = lab
    rows = [lab.run(case) for case in TABLE_6]
    trained = [command[command.index("--out") + 1].rpartition("/")[2] for command in commands]
    assert sorted(trained) == ["prompter", "prompter-aux", "segmentor-k0", "segmentor-k1"]
    assert len(evaluated) == 5
    assert [lab.run(case)["metrics"] for case in TABLE_6] == [row["metrics"] for row in rows]
    assert (len(commands), len(evaluated)) == (4, 5)
    ablation.write(lab.out, [("6", rows)], lab)
    assert "| frozen segmentor | 1.000 |" in (lab.out / "ablation.md").read_text()
    assert "0.319" in (lab.out / "ablation.md").read_text()
    assert json.loads((lab.out / "ablation.json").read_text())["trainings"]["prompter"].startswith("7 steps")


def test_rows_predict_alike_but_for_what_they_are_about_whatever_their_segmentor_was_trained_with(lab):
    lab, _, evaluated = lab
    for case in TABLE_6:
        lab.run(case)
    tuned = read_recipe(ablation.RECIPE)
    pairs = [pair_recipe(Path(), tuned, Path(), masks) for masks in (read_recipe("nano"), *[tuned] * 4)]
    assert pairs[0].inference.colour_blur != pairs[1].inference.colour_blur
    rows = [Settings.of(manifest_of(pair), options) for pair, (_, options, _, _) in zip(pairs, evaluated, strict=True)]
    first = rows[0]
    assert rows[1:3] == [first, first]
    assert rows[3] == replace(first, region_filter=True)
    assert rows[4] == replace(first, region_filter=True, negatives=1)
    assert (first.nms_overlap, first.enlarged_blur) == (None, (0, 0))
    assert {mpp for *_, mpp in evaluated} == {"model"}


def test_a_training_that_fails_is_told_in_a_sentence_and_not_taken_for_done(lab, monkeypatch):
    lab, _, evaluated = lab
    monkeypatch.setattr(ablation.subprocess, "run", lambda command, check: SimpleNamespace(returncode=1))
    for _ in range(2):
        with pytest.raises(PnsegError, match=r"out/prompter: its training failed; mend what it says above"):
            lab.run(TABLE_6[0])
    assert not evaluated


def test_an_override_is_of_every_row(lab):
    lab, _, evaluated = lab
    replace(lab, overrides=("inference.nms_overlap=0.3",)).run(TABLE_6[0])
    ((_, options, _, _),) = evaluated
    assert (options.nms_overlap, options.nms_iou) == (0.3, 0.35)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("segmentor.negatives=1", "--set segmentor.negatives: sets segmentor.negatives, but rows differ in it"),
        ("prompter.region_weight=1", "sets prompter.region_weight, but rows differ in it"),
        ("inference.region_filter=false", "sets inference.region_filter, but rows differ in it"),
        ("inference.negatives=2", "sets inference.negatives, but rows differ in it"),
        ("segmentor.plan.steps=5", "sets segmentor.plan.steps, but --segmentor-steps says it"),
        ("prompter.plan={steps: 5}", "sets prompter.plan.steps, but --prompter-steps says it"),
        ("segmentor={negatives: 1}", "sets segmentor.negatives, but rows differ in it"),
    ],
)
def test_what_rows_differ_in_cannot_be_set_for_all(override, said, tmp_path):
    (tmp_path / "given").mkdir()
    given = ("--data", str(tmp_path / "given"), "--segmentor", str(tmp_path / "given"), "--out", str(tmp_path / "out"))
    done = CliRunner().invoke(main, ["ablation", *given, "--set", override])
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_another_start_makes_a_row_anew(lab):
    lab, _, evaluated = lab
    lab.run(TABLE_6[0])
    (lab.segmentor / "model.safetensors").write_bytes(b"others")
    lab.run(TABLE_6[0])
    assert len(evaluated) == 2


@pytest.mark.parametrize("change", [{"weights": b"others"}, {"card": '{"step": 1}'}])
@pytest.mark.parametrize("network", ["prompter-aux", "segmentor-k1"])
def test_a_checkpoint_that_is_another_makes_its_rows_anew(network, change, lab):
    lab, _, evaluated = lab
    for _ in range(2):
        lab.run(TABLE_6[4])
        lab.run(TABLE_6[0])
    assert len(evaluated) == 2
    write_checkpoint(lab.out / network / "best", **change)
    lab.run(TABLE_6[4])
    lab.run(TABLE_6[0])
    assert len(evaluated) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"steps": {"prompter": 7, "segmentor": 600}},
        {"overrides": ("segmentor.plan.lr=0.1",)},
        {"data": "other"},
        {"segmentor": "start"},
    ],
)
def test_a_training_of_other_settings_is_not_taken_for_this_one(lab, change, tmp_path):
    lab, commands, _ = lab
    lab.trained("segmentor-k1")
    assert lab.trained("segmentor-k1") == lab.out / "segmentor-k1" / "best"
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model.safetensors").write_bytes(b"others")
    paths = {name: tmp_path / value if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(PnsegError, match="segmentor-k1: trained with other"):
        replace(lab, **paths).trained("segmentor-k1")
    assert len(commands) == 1


def test_other_data_make_a_row_anew(lab, tmp_path):
    lab, _, _ = lab
    assert lab.settings(TABLE_6[0]) != replace(lab, data=tmp_path / "other").settings(TABLE_6[0])
    assert lab.settings(TABLE_6[0]) == replace(lab, threads=1).settings(TABLE_6[0])


def test_segmentors_start_from_the_given_one_and_prompters_from_imagenet(lab):
    lab, _, _ = lab
    assert "--init" not in lab.command("prompter")
    command = lab.command("segmentor-k1")
    assert command[command.index("--init") + 1] == str(lab.segmentor)
    assert "segmentor.plan.steps=5" in command
