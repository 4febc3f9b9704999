"""Ctrl-C keeps what has been measured, and a place that cannot be written to is told before the measuring."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import subjects, table5
from benchmarks.__main__ import main
from benchmarks.protocol import Interrupted, Protocol, latencies, read_document
from benchmarks.runs import EAGER, ORT
from benchmarks.subjects import Subject

STAGES = {"prepare": 0.001, "network": 0.01, "post-processing": 0.001}


@pytest.fixture
def measure(monkeypatch):
    """Runs table5 on methods that do nothing, each a stand-in; the call of the given number is interrupted."""

    def run(*arguments, at=None, methods=("StarDist", "PromptNucSeg-L")):
        done = []

        def predict(tile):
            done.append(tile)
            if len(done) == at:
                raise KeyboardInterrupt
            return STAGES

        monkeypatch.setattr(
            table5, "open_subjects", lambda method, runs, *_: [Subject(method, run, predict) for run in runs]
        )
        chosen = [part for method in methods for part in ("--methods", method)]
        found = CliRunner().invoke(main, ["table5", "--rounds", "4", *chosen, "--runs", EAGER, *arguments])
        return found, done

    return run


def test_a_finished_group_is_kept_and_the_rest_is_said_to_be_interrupted(measure, tmp_path):
    # Two warm-up rounds, four that count, and four runs for each of five sweeps are StarDist's; then L begins.
    found, _ = measure("--out", str(tmp_path / "x.json"), "--json", at=2 + 4 + 5 * 4 + 1)
    assert found.exit_code == 130
    assert "Interrupted." in found.stderr
    document = read_document(tmp_path / "x.json")
    assert json.loads(found.stdout) == json.loads((tmp_path / "x.json").read_text())
    star, large = document.rows
    assert (star.latency.runs, large.latency) == (4, None)
    assert large.note == "not measured: interrupted before"
    assert document.settings["stopped"]


def test_rounds_that_had_counted_are_kept_without_sweep(measure, tmp_path):
    found, done = measure("--out", str(tmp_path / "x.json"), at=2 + 3 + 1, methods=("StarDist",))
    assert found.exit_code == 130
    (row,) = read_document(tmp_path / "x.json").rows
    assert (row.latency.runs, row.model_extra["sweep_ms"]) == (3, {})
    assert row.model_extra["stages_ms"]["network"] == pytest.approx(10)
    assert len(done) == 6


def test_nothing_is_written_before_anything_was_measured(measure, tmp_path):
    found, _ = measure("--out", str(tmp_path / "x.json"), "--json", at=1)
    assert (found.exit_code, found.stdout) == (130, "")
    assert not list(tmp_path.iterdir())


def test_what_was_taken_comes_with_the_interruption():
    calls = []

    def call():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        latencies({"a": call}, Protocol(warmup=1, rounds=9))
    assert caught.value.latencies["a"].runs == 2


@pytest.mark.parametrize("option", ["--out", "--graphs"])
def test_a_place_that_cannot_be_written_to_is_told_before_the_measuring(option, measure, tmp_path):
    (tmp_path / "file").touch()
    found, done = measure(option, str(tmp_path / "file" / "below" / "x.json"))
    assert found.exit_code == 1
    assert "cannot be written (" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not done


def test_a_document_that_cannot_be_written_whole_leaves_the_one_before(measure, tmp_path, monkeypatch):
    measure("--out", str(tmp_path / "x.json"), "--no-sweep")
    before = (tmp_path / "x.json").read_bytes()
    monkeypatch.setattr("pnseg_runtime.outputs.atomic.os.fsync", _full)
    found, _ = measure("--out", str(tmp_path / "x.json"), "--no-sweep")
    assert found.exit_code == 1
    assert "x.json: cannot be written (no space left)" in found.stderr
    assert (tmp_path / "x.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def _full(_):
    raise OSError(28, "no space left")


def test_an_export_that_is_interrupted_is_not_taken_for_a_graph(tmp_path, monkeypatch):
    def export(graph, example, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(subjects, "export_graph", export)
    monkeypatch.setattr(subjects, "PeerGraph", lambda *_: None)
    pytest.importorskip("cellseg_models_pytorch")
    with pytest.raises(KeyboardInterrupt):
        subjects.open_subjects("StarDist", (ORT,), tmp_path, threads=1)
    assert not (tmp_path / "StarDist.onnx").exists()


def test_a_copy_that_is_interrupted_is_not_taken_for_a_bundle(tmp_path, monkeypatch):
    from benchmarks import promptnucseg
    from pnseg_runtime.bundle import MANIFEST_NAME, Bundle

    nano = Bundle.open("nano")

    def half(source, target, ignore):
        target.mkdir()
        (target / MANIFEST_NAME).write_bytes((source / MANIFEST_NAME).read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promptnucseg.shutil, "copytree", half)
        with pytest.raises(KeyboardInterrupt):
            promptnucseg.copied_bundle(nano, tmp_path / "nano")
    copied = promptnucseg.copied_bundle(nano, tmp_path / "nano")
    assert copied.path("encoder").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["nano"]
