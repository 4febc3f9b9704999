"""Style, types and import rules: with the tests, so that one process checks them while another one tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ["ruff check .", "ruff format --check .", "mypy", "lint-imports"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_found_by(command):
    name, *arguments = command.split()
    done = subprocess.run([Path(sys.executable).with_name(name), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
