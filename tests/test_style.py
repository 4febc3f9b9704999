"""Style, types, import rules and wrapped prose: with the tests, so that one process checks them while another tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ["ruff check .", "ruff format --check .", "mypy", "lint-imports"]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 120


def lines_of_prose(page: str) -> list[str]:
    """A page's lines without blocks of code, which stay in place empty, and rows of tables."""
    text = re.sub(r"^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), page, flags=re.M | re.S)
    return ["" if line.startswith("|") else line for line in text.split("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_found_by(command):
    name, *arguments = command.split()
    done = subprocess.run([Path(sys.executable).with_name(name), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_at_120_characters(page):
    lines = enumerate(lines_of_prose(page.read_text(encoding="utf-8")), start=1)
    assert not [f"{page.name}:{number} has {len(line)}" for number, line in lines if len(line) > WIDTH]
