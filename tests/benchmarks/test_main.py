"""``python -m benchmarks`` finds its verbs."""

import sys
import time

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import VERBS, main
from benchmarks.rewrites import interleaved


def test_help_lists_every_verb_and_imports_none(monkeypatch):
    for verb in VERBS:
        monkeypatch.delitem(sys.modules, f"benchmarks.{verb}", raising=False)
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for verb in VERBS:
        assert verb in result.output
        assert f"benchmarks.{verb}" not in sys.modules


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    result = CliRunner().invoke(main, [verb, "--help"])
    assert result.exit_code == 0, result.output
    assert "--size" in result.output


def test_variants_take_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, order = iter(range(100)), []
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    calls = {name: lambda name=name: (order.append(name), [next(clock) for _ in range(len(order))]) for name in "ab"}
    taken = interleaved(calls, repeats=2)
    assert order == ["a", "b"] * 3
    assert taken == {"a": 4.0, "b": 5.0}  # the second round is the fastest that counts
