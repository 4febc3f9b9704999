"""Goes on one machine become one document, with every sample once."""

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.merge import merged
from benchmarks.protocol import Latency, Row, Throughput, read_document
from benchmarks.runs import EAGER
from pnseg_runtime.errors import PnsegError
from tests.benchmarks.made import made_document

STAR = "StarDist", EAGER, 1


def merge(*arguments):
    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


def rows_of(document):
    return {row.key: row for row in document.rows}


def test_goes_on_one_machine_are_joined_with_all_their_samples(tmp_path):
    first, second = made_document(), made_document(2)
    only = first.model_copy(update={"rows": first.rows[:1]})
    only.save(tmp_path / "a.json")
    second.save(tmp_path / "b.json")
    result = CliRunner().invoke(
        main, ["merge", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(tmp_path / "c.json")]
    )
    assert result.exit_code == 0, result.output
    rows = {row.key: row for row in read_document(tmp_path / "c.json").rows}
    assert len(rows) == len(second.rows)
    star = rows["StarDist", EAGER, 1]
    assert star.latency.runs == 6
    assert star.latency.p50_ms == pytest.approx(np.median([1425, 1500, 1575, 2850, 3000, 3150]))
    assert star.fps == pytest.approx(1e3 / star.latency.p50_ms)
    assert rows["PromptNucSeg-B", "TensorRT FP16", 1].latency is None


def test_goes_on_different_machines_are_not_joined():
    first = made_document()
    other = first.model_copy(update={"machine": first.machine.model_copy(update={"cpu": "Another"})})
    with pytest.raises(PnsegError, match="different machines"):
        merged({"a": first, "b": other})


@pytest.fixture
def goes(tmp_path):
    """Two files, and what they become."""
    made_document().save(tmp_path / "1.json")
    made_document(2).save(tmp_path / "2.json")
    done = merge(tmp_path / "1.json", tmp_path / "2.json", "--out", tmp_path / "table5.json")
    assert done.exit_code == 0, done.output
    return tmp_path


def test_stages_sweep_and_throughput_have_the_samples_of_both_goes(goes):
    first, second, both = (
        rows_of(read_document(goes / name))[STAR].model_extra for name in ("1.json", "2.json", "table5.json")
    )
    for medians, samples in (("stages_ms", "stages_samples_ms"), ("sweep_ms", "sweep_samples_ms")):
        for key, values in both[samples].items():
            assert values == [*first[samples][key], *second[samples][key]]
            assert both[medians][key] == pytest.approx(np.median(values))
        assert first[medians].keys() == both[medians].keys()
    rates = [*first["throughput"]["8"]["samples"], *second["throughput"]["8"]["samples"]]
    assert both["throughput"]["8"] == Throughput.of(8, rates).model_dump()


@pytest.mark.parametrize("again", ["1.json", "2.json"])
def test_a_file_beside_one_that_it_is_in_is_refused(again, goes):
    before = (goes / "table5.json").read_bytes()
    done = merge(goes / again, goes / "table5.json", "--out", goes / "table5.json")
    assert done.exit_code == 1
    assert (
        f"{goes / again} and {goes / 'table5.json'}: hold the same measurement (StarDist, PyTorch eager)" in done.output
    )
    assert (goes / "table5.json").read_bytes() == before


def test_one_file_twice_is_refused(goes):
    done = merge(goes / "1.json", goes / "1.json", "--out", goes / "x.json")
    assert done.exit_code == 1
    assert "1.json: is given twice" in done.output
    (goes / "copy.json").write_bytes((goes / "1.json").read_bytes())
    assert "hold the same measurement" in merge(goes / "1.json", goes / "copy.json", "--out", goes / "x.json").output
    assert not (goes / "x.json").exists()


def test_what_has_no_samples_is_left_out_and_said_to_be(goes):
    old = read_document(goes / "2.json")
    names = {"stages_samples_ms", "sweep_samples_ms"}
    rows = [Row(**{k: v for k, v in row.model_dump().items() if k not in names}) for row in old.rows]
    old.model_copy(update={"rows": rows}).save(goes / "old.json")
    for files in (("1.json", "old.json"), ("old.json", "1.json")):
        done = merge(*(goes / name for name in files), "--out", goes / "x.json")
        assert "StarDist, PyTorch eager: stages_ms left out, as it cannot be joined." in done.output
        assert "StarDist, PyTorch eager: sweep_ms left out, as it cannot be joined." in done.output
        extra = rows_of(read_document(goes / "x.json"))[STAR].model_extra
        assert (extra["stages_ms"], extra["sweep_ms"]) == ({}, {})
        assert extra["throughput"]


def test_what_only_one_go_has_is_kept(goes):
    bare = read_document(goes / "2.json")
    rows = [row.model_copy(update={"sweep_ms": {}, "sweep_samples_ms": {}}) for row in bare.rows]
    bare.model_copy(update={"rows": rows}).save(goes / "bare.json")
    done = merge(goes / "1.json", goes / "bare.json", "--out", goes / "x.json")
    assert "left out" not in done.output
    sweeps = [rows_of(read_document(goes / name))[STAR].model_extra["sweep_ms"] for name in ("1.json", "x.json")]
    assert sweeps[0] == sweeps[1]


def test_ratios_of_one_go_are_not_taken_for_those_of_both():
    rows = [Row(method="tile", latency=Latency.of([s]), against_eager={"p50": s}, gmacs=3.0) for s in (1.0, 2.0)]
    goes = {str(row.latency.p50_ms): made_document().model_copy(update={"rows": [row]}) for row in rows}
    (row,) = merged(goes).rows
    assert row.model_extra == {"against_eager": None, "gmacs": 3.0}
    assert row.latency.runs == 2
