"""What the guard holds on to, and that it fails when something gets worse."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import guard as guard_module
from benchmarks.__main__ import main
from benchmarks.guard import ACCEPTED, accept, read_accepted
from benchmarks.guarded import GROUPS, compare, counting, kernel_resources
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.sessions import Sessions


@pytest.mark.parametrize("group", GROUPS)
def test_no_figure_is_worse_than_accepted(group):
    changes = list(compare(read_accepted(ACCEPTED).get(group, {}), GROUPS[group]()))
    worse = [text for kind, text in changes if kind != "better"]
    assert not worse, f"python -m benchmarks guard --accept '{group}' takes these on purpose"


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """A guard over two groups of made-up figures."""
    made = {"one": {"one.macs": 100, "one.nodes": 7}, "two": {"two.bytes": 0}}
    monkeypatch.setattr(guard_module, "GROUPS", {name: (lambda name=name: made[name]) for name in made})
    monkeypatch.setattr(guard_module, "ACCEPTED", tmp_path / "guard.json")
    monkeypatch.setattr(guard_module.failures, "__defaults__", (tmp_path / "guard.json",))
    monkeypatch.setattr(guard_module.accept, "__defaults__", (tmp_path / "guard.json",))
    accept(("all",), tmp_path / "guard.json")
    return made


def run(*arguments):
    return CliRunner().invoke(main, ["guard", *arguments])


def test_unchanged_figures_pass(figures):
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("group", "name", "value", "said"),
    [
        ("one", "one.macs", 101, "one.macs: 100 → 101 (+1.0%)"),
        ("two", "two.bytes", 5, "two.bytes: 0 → 5 (+5)"),
        ("two", "two.new", 1, "two.new: 1 has not been accepted yet"),
    ],
)
def test_a_worse_figure_fails_and_is_named(figures, group, name, value, said):
    figures[group][name] = value
    result = run()
    assert result.exit_code == 1
    assert said in result.output


def test_a_figure_that_is_gone_fails(figures):
    del figures["one"]["one.nodes"]
    result = run()
    assert result.exit_code == 1
    assert "one.nodes: was 7" in result.output


def test_a_better_figure_passes_and_is_mentioned(figures):
    figures["one"]["one.macs"] = 90
    result = run()
    assert result.exit_code == 0
    assert "better  one.macs: 100 → 90 (-10.0%)" in result.output


def test_one_group_is_accepted_without_the_other(figures):
    figures["one"]["one.macs"] = figures["two"]["two.bytes"] = 1000
    assert run("--accept", "one").exit_code == 0
    result = run()
    assert result.exit_code == 1
    assert "one.macs" not in result.output
    assert "two.bytes" in result.output


def test_an_unknown_group_is_refused(tmp_path):
    with pytest.raises(PnsegError, match="no such group"):
        accept(("three",), tmp_path / "guard.json")
    assert not (tmp_path / "guard.json").exists()


def test_a_broken_file_of_figures_is_refused_with_its_name(tmp_path):
    (tmp_path / "guard.json").write_text("[1, 2]")
    with pytest.raises(PnsegError, match=r"guard\.json: not a file of figures"):
        read_accepted(tmp_path / "guard.json")


def test_calls_and_bytes_of_sessions_are_counted():
    def network(inputs):
        return {"out": np.zeros((2, 3), np.float32)}

    sessions, figures = counting(Sessions(network, network, network))
    sessions.decoder({"in": np.zeros(5, np.int64)})
    sessions.decoder({"in": np.zeros(1, np.int64)})
    assert figures["decoder.calls"] == 2
    assert figures["decoder.bytes"] == 5 * 8 + 1 * 8 + 2 * 24
    assert figures["encoder.calls"] == 0


def test_a_spilling_kernel_is_seen(tmp_path):
    told = {"registers": 40, "spill_stores": 0, "spill_loads": 0, "stack": 0, "shared": 16}
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps({"resources": {"sm86": {"paint": told}}}))
    before = kernel_resources(path)
    path.write_text(json.dumps({"resources": {"sm86": {"paint": told | {"spill_stores": 8}}}}))
    assert list(compare(before, kernel_resources(path))) == [("worse", "kernels.sm86.paint.spill_stores: 0 → 8 (+8)")]
    assert kernel_resources(tmp_path / "none.json") == {}
