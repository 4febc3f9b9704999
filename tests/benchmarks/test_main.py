"""``python -m benchmarks`` finds its verbs."""

import sys

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import VERBS, main


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
    assert "--help" in result.output
