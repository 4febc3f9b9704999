"""Tables of accuracy run ``pnseg evaluate`` with the switches of their rows."""

import json
import subprocess

import pytest
from click.testing import CliRunner

from benchmarks import accuracy
from benchmarks.__main__ import main
from benchmarks.accuracy import mean_of
from benchmarks.table1 import tissue_means
from pnseg_train.datasets import open_dataset
from tests.real_data import real

DATA = "tests/data/cc0_tiles"


def answer(pq=0.5):
    row = {"pq": pq, "aji": 0.4}
    found = {"images": 1, "mean": row, "rows": {"a": row}}
    tissues = {"Breast": {"bpq": 0.6, "mpq": 0.5}, "average": {"bpq": 0.5, "mpq": 0.5}}
    return {"protocol": "as in the paper", "sets": {"x": found}, "tissues": tissues}


@pytest.fixture
def evaluations(monkeypatch):
    """Every command that would be run, and an answer for each."""
    commands = []

    def run(command):
        commands.append(command[4:])
        return subprocess.CompletedProcess(command, 0, json.dumps(answer()), "")

    monkeypatch.setattr(accuracy, "run_command", run)
    return commands


def invoke(*arguments):
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["rows"]


def test_table4_has_the_papers_methods_and_ours_with_and_without_tta(evaluations):
    rows = invoke("table4", "nano", "--kumar", DATA, "--tta")
    assert [command[-1] for command in evaluations] == [DATA, "--tta"]
    ours = [row for row in rows if row["figures"]]
    assert [row["method"] for row in ours] == ["nano (this one)", "nano (this one), TTA"]
    assert ours[0]["figures"] == {"aji": 0.4, "pq": 0.5}
    assert next(row for row in rows if row["method"] == "PromptNucSeg-H")["printed"] == [0.622, 0.627]


def test_table6_switches_ideas_on_one_after_another(evaluations):
    rows = invoke("table6", "--data", DATA, "--auxiliary", "a,b", "--negative", "c")
    assert [row["figures"] is not None for row in rows] == [False, False, True, True, True]
    assert [command[-3:] for command in evaluations] == [
        ["--no-region-filter", "--negatives", "0"],
        ["--region-filter", "--negatives", "0"],
        ["--region-filter", "--negatives", "1"],
    ]
    assert evaluations[0][:2] == ["a", "b"]


def test_table7_crosses_negatives_with_points(evaluations):
    rows = invoke("table7", "--data", DATA, "--model", "0=a", "--model", "1=b")
    assert len(rows) == 12
    assert {tuple(command[-4:]) for command in evaluations} == {
        ("--negatives", str(k), "--points", points) for k in (0, 1, 2) for points in ("predicted", "oracle")
    }


def test_tables_1_and_8_take_means_over_tissues(evaluations):
    rows = invoke("table1", "--data", DATA, "--fold", "123:test=nano")
    assert rows[-1]["figures"] == {"bpq": 0.5, "mpq": 0.5}
    assert evaluations[-1][:3] == ["nano", "--split", "123:test"]
    rows = invoke("table1", "--data", DATA, "--fold", "123:test=a", "--fold", "213:test=b")
    assert (rows[-1]["method"], rows[-1]["figures"]) == ("mean of 2 folds", {"bpq": 0.5, "mpq": 0.5})
    rows = invoke("table8", "--data", DATA, "--segmentor", "a")
    assert [row["figures"] for row in rows] == [None, {"bpq": 0.5, "mpq": 0.5}]


def test_means_leave_out_what_is_not_defined():
    undefined = {"bpq": None, "mpq": None}
    assert tissue_means({"tissues": {"average": undefined}}) == undefined
    document = answer()
    document["sets"]["y"] = {"rows": {"b": {"pq": None, "aji": 0.8}}}
    assert mean_of("pq", "aji")(document) == {"pq": 0.5, "aji": pytest.approx(0.6)}


def test_a_failed_evaluation_is_one_sentence(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "warning\nError: nano: no bundle here\n")
    monkeypatch.setattr(accuracy, "run_command", lambda command: failed)
    result = CliRunner().invoke(main, ["table4", "nano", "--kumar", DATA])
    assert result.exit_code == 1
    assert "nano: no bundle here" in result.output
    assert "Traceback" not in result.output


def test_without_a_model_or_data_there_is_nothing_to_print():
    for arguments in (["table4", "nano"], ["table6", "--data", DATA], ["table8", "--data", DATA]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert "give a model and annotated images" in result.output


@pytest.mark.slow
def test_table4_runs_for_real_on_annotated_images():
    real("kumar")
    assert len(list(open_dataset(real("cc0_tiles"), "val")))
    rows = invoke("table4", "nano", "--kumar", str(real("cc0_tiles")), "--split", "val")
    figures = next(row["figures"] for row in rows if row["figures"])
    assert 0 < figures["pq"] <= 1
    assert 0 < figures["aji"] <= 1
