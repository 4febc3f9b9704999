"""Table 5 from end to end on what is small, and what it says of what cannot run."""

import json
import sys

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.paper import TABLE5
from benchmarks.promptnucseg import copied_bundle, plain_counts
from benchmarks.runs import EAGER, ENGINES, ORT, RUNS
from benchmarks.subjects import METHODS
from benchmarks.table5 import GROUPS, counted_fields, split_runs
from benchmarks.tables import not_measured
from pnseg_runtime.bundle import Bundle
from tests.benchmarks.made import made_document


def run(*arguments):
    result = CliRunner().invoke(main, ["table5", "--no-sweep", "--rounds", "1", "--threads", "1", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_nano_is_measured_from_pixels_to_instances():
    runs = ("--runs", ORT, "--runs", "ONNX Runtime INT8", "--runs", EAGER, "--runs", "TensorRT FP16")
    result = run("--methods", "PromptNucSeg-nano", *runs, "--json", "--batches", "2")
    document = json.loads(result.stdout)
    rows = {row["run"]: row for row in document["rows"]}
    for measured in (rows[ORT], rows["ONNX Runtime INT8"], rows[EAGER]):
        assert 5 < measured["params_m"] < 10
        assert 3 < measured["gmacs"] < 5
        assert measured["fps"] == pytest.approx(1e3 / measured["latency"]["p50_ms"], rel=1e-3)
        assert set(measured["stages_ms"]) >= {"prepare", "prompter", "points", "encoder", "decoder", "masks"}
        assert measured["throughput"]["2"]["p50"] > 0
    assert rows["TensorRT FP16"]["fps"] is None
    assert rows["TensorRT FP16"]["note"].startswith("not measured: ")
    assert document["machine"]["cpu"]
    assert "maps made from the tile's real label map" in document["settings"]["how"]


@pytest.mark.parametrize("wanted", [(), (EAGER,), (ORT,)])
def test_a_rival_without_its_library_has_a_row_a_run_that_names_the_extra(wanted, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("cellseg_models_pytorch", "benchmarks.peers."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cellseg_models_pytorch", None)
    result = run("--methods", "StarDist", *(part for name in wanted for part in ("--runs", name)), "--json")
    rows = json.loads(result.stdout)["rows"]
    assert [row["run"] for row in rows] == list(wanted or (EAGER, ORT))
    for row in rows:
        assert (row["method"], row["fps"]) == ("StarDist", None)
        assert "pnseg[peers]" in row["note"]
        assert row["printed"]["fps"] == 17


def test_a_rival_by_no_engine_that_it_has_says_so():
    rows = json.loads(run("--methods", "StarDist", "--runs", "OpenVINO FP32", "--json").stdout)["rows"]
    assert [row["run"] for row in rows] == ["OpenVINO FP32"]
    assert rows[0]["note"] == "not measured: rivals run by PyTorch eager and ONNX Runtime FP32 alone"


def test_the_quick_form_names_what_it_leaves_out_unless_its_graph_is_there(tmp_path):
    quick = "left out of the quick form"
    assert split_runs("StarDist", RUNS, tmp_path, quick=True) == ((EAGER,), {ORT: quick})
    assert split_runs("PromptNucSeg-L", (ORT,), tmp_path, quick=True) == ((), {ORT: quick})
    assert split_runs("PromptNucSeg-nano", RUNS, tmp_path, quick=True) == (RUNS, {})
    (tmp_path / "StarDist.onnx").touch()
    assert split_runs("StarDist", RUNS, tmp_path, quick=True) == ((EAGER, ORT), {})


def test_counts_of_b_are_within_one_percent_of_the_papers_when_counted_alike():
    counts = plain_counts("B", 24, (2,))
    assert counts.paper_params / 1e6 == pytest.approx(TABLE5["PromptNucSeg-B"].params_m, rel=0.01)
    assert counts.paper_macs / 1e9 == pytest.approx(TABLE5["PromptNucSeg-B"].gmacs, rel=0.01)
    assert counts.macs / 1e9 == pytest.approx(59.53, rel=0.002)


def test_every_method_is_in_one_group_and_every_run_has_an_engine():
    assert sorted(method for group in GROUPS for method in group) == sorted(METHODS)
    assert (EAGER, *ENGINES) == RUNS


def test_a_row_that_is_not_measured_prints_why_and_what_the_paper_prints_stays_its_own():
    assert not_measured(made_document()) == ["PromptNucSeg-B, TensorRT FP16: not measured: no GPU here"]
    assert counted_fields("PromptNucSeg-nano", None, None)["printed"] is None


def test_a_copy_of_the_shipped_bundle_is_kept_until_the_bundle_changes(tmp_path):
    nano = Bundle.open("nano")
    copied_bundle(nano, tmp_path / "copy")
    (tmp_path / "copy" / "mark").touch()
    copied_bundle(nano, tmp_path / "copy")
    assert (tmp_path / "copy" / "mark").is_file()
    stale = Bundle(nano.folder, nano.manifest.model_copy(update={"graphs": {}}))
    copied_bundle(stale, tmp_path / "copy")
    assert not (tmp_path / "copy" / "mark").exists()
