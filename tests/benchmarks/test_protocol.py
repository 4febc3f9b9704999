"""Calls take turns, warm-up does not count, and a document survives its file."""

import time

import numpy as np
import pytest

from benchmarks.protocol import (
    Document,
    Latency,
    Protocol,
    Row,
    document,
    latencies,
    read_document,
    throughputs,
    turns,
)
from pnseg_runtime.errors import PnsegError


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a call moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds):
        now[0] += seconds

    return takes


def test_calls_take_turns_and_each_round_starts_with_another():
    order = [name for name, _ in turns(["a", "b", "c"], Protocol(warmup=1, rounds=3))]
    assert order == [*"abc", *"bca", *"cab", *"abc"]


def test_warm_up_rounds_do_not_count(clock):
    costs = iter([100.0, *[1.0] * 5])
    taken = latencies({"a": lambda: clock(next(costs))}, Protocol(warmup=1, rounds=5))["a"]
    assert (taken.runs, taken.p50_ms, taken.p99_ms) == (5, 1000.0, 1000.0)


def test_no_round_begins_after_the_limit_once_the_least_have_counted(clock):
    protocol = Protocol(warmup=1, rounds=100, seconds=10, least=3)
    assert latencies({"slow": lambda: clock(60)}, protocol)["slow"].runs == 3
    assert latencies({"fast": lambda: clock(1)}, protocol)["fast"].runs == 11


def test_a_clock_stops_only_when_the_device_has_finished(clock):
    queued = []

    def synchronise():
        clock(sum(queued))
        queued.clear()

    calls = {"asynchronous": lambda: queued.append(2.0)}
    taken = latencies(calls, Protocol(warmup=0, rounds=4), synchronise)["asynchronous"]
    assert taken.p50_ms == 2000
    # Throughput waits once a run: four calls of half a second in the two that a run lasts at least.
    rate = throughputs({"batch": (lambda: queued.append(0.5), 8)}, Protocol(warmup=0, rounds=2), synchronise, 2.0)
    assert (rate["batch"].p50, rate["batch"].batch, rate["batch"].runs) == (16, 8, 2)


def test_percentiles_are_those_of_numpy():
    seconds = np.random.default_rng(0).gamma(2, 0.01, 101)
    taken = Latency.of(seconds.tolist())
    expected = 1e3 * np.percentile(seconds, [5, 50, 95, 99])
    assert np.allclose([taken.p5_ms, taken.p50_ms, taken.p95_ms, taken.p99_ms], expected, atol=1e-4)
    assert taken.per_second == pytest.approx(1 / np.median(seconds), rel=1e-4)


def test_the_collector_runs_again_after_a_call_that_fails():
    import gc

    with pytest.raises(ZeroDivisionError):
        latencies({"bad": lambda: 1 / 0})
    assert gc.isenabled()


def test_a_document_survives_its_file_and_names_the_machine(tmp_path):
    row = Row(method="PromptNucSeg-B", run="eager", latency=Latency.of([0.25, 0.5]), gmacs=59.5)
    made = document("test", [row], Protocol(), nuclei=24)
    made.save(tmp_path / "deep" / "a.json")
    read = read_document(tmp_path / "deep" / "a.json")
    assert read == made
    assert read.rows[0].gmacs == 59.5
    assert read.machine.cpu
    assert read.machine.usable >= 1
    assert {"numpy", "onnxruntime"} <= set(read.machine.packages)
    assert read.settings == {"nuclei": 24}


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"format_version": 1, "surprise": 2}'])
def test_another_file_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(PnsegError, match=r"other\.json: not a benchmark's JSON"):
        read_document(path)


def test_the_form_of_the_json_is_published():
    schema = Document.model_json_schema()
    assert set(schema["required"]) == {"benchmark", "machine", "rows"}
    assert {"p5_ms", "p50_ms", "p95_ms", "p99_ms"} <= set(schema["$defs"]["Latency"]["properties"])
