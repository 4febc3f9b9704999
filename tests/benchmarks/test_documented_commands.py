"""Every command in the documentation and in the examples of the help is one that the command line takes.

It is parsed, not run: verbs and options are there, values are among the choices, nothing that is required is left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import VERBS as MEASUREMENTS
from benchmarks.__main__ import main as benchmarks
from pnseg_runtime.cli import cli
from pnseg_runtime.cli.group import load_verb
from pnseg_runtime.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
PAGES = (*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md")))

#: What a command begins with → what takes the rest of it.
PROGRAMS = {"pnseg": cli, "python -m benchmarks": benchmarks}

#: What the shell takes; a command ends there.
SHELL = {"|", ">", "&", "&&"}


def commands_of(page: str) -> Iterator[str]:
    """Lines of the blocks of a page that begin with ``$``, continued ones joined."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^\$ (.*)", block.replace("\\\n", " "), re.MULTILINE)


def mentions_of(page: str) -> list[str]:
    """Commands inside sentences, which may leave things out."""
    return re.findall(r"`((?:pnseg|python -m benchmarks) [^`]+)`", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S))


def examples_of(command: click.Command) -> list[str]:
    """Lines of a verb's help that are commands."""
    lines = f"{command.help}\n{command.epilog}".replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.startswith(tuple(f"  {program} " for program in PROGRAMS))]


def complaint(line: str) -> str | None:
    """What is wrong with a command, by the command line's own words; None for a command of another program."""
    for program, group in PROGRAMS.items():
        if line.startswith(f"{program} "):
            words = takewhile(lambda word: word not in SHELL, shlex.split(line.removeprefix(program), comments=True))
            done = CliRunner().invoke(group, list(words))
            return "" if done.exit_code == 0 else f"{line}\n{done.output}"
    return None


def family(command: click.Command) -> Iterator[click.Command]:
    """A verb and the verbs below it."""
    yield command
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        yield from family(child)


@pytest.fixture(scope="module")
def verbs() -> Iterator[list[click.Command]]:
    """All verbs; they do nothing, and files need not be there."""
    loaded = [load_verb(verb) for verb in VERBS]
    loaded += [getattr(import_module(f"benchmarks.{name}"), name) for name in MEASUREMENTS]
    found = [each for command in loaded for each in family(command)]
    with pytest.MonkeyPatch.context() as patch:
        for command in found:
            patch.setattr(command, "callback", lambda **_: None)
            for parameter in command.params:
                if isinstance(parameter.type, click.Path):
                    patch.setattr(parameter.type, "exists", False)
        yield found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_documentation_are_taken(page, verbs):
    told = [complaint(line) for line in commands_of(page.read_text(encoding="utf-8"))]
    assert not "\n".join(filter(None, told))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_and_options_that_sentences_name_are_there(page, verbs):
    told = [complaint(line.replace("…", "")) for line in mentions_of(page.read_text(encoding="utf-8"))]
    left_out = ("Error: Missing ", "requires an argument")
    assert not "\n".join(each for each in told if each and not any(words in each for words in left_out))


def test_examples_of_the_help_are_taken(verbs):
    told = [complaint(line) for command in verbs for line in examples_of(command)]
    assert not "\n".join(filter(None, told))


def silent_about(command: click.Command) -> list[str]:
    """Options of a verb whose help is empty."""
    return [
        f"{command.name} {each.opts[0]}" for each in command.params if isinstance(each, click.Option) and not each.help
    ]


def test_every_option_has_a_help(verbs):
    assert not [each for command in verbs for each in silent_about(command)]
    assert silent_about(click.Command("a", params=[click.Option(["--b"]), click.Option(["--c"], help="d")])) == [
        "a --b"
    ]


def test_every_verb_that_takes_something_has_an_example(verbs):
    lacking = [command.name for command in verbs if not isinstance(command, click.Group) and not examples_of(command)]
    assert not lacking


def test_the_commands_are_found_and_a_wrong_one_is_told(verbs):
    lines = [line for page in PAGES for line in commands_of(page.read_text(encoding="utf-8"))]
    assert sum(complaint(line) is not None for line in lines) > 80
    assert sum(len(examples_of(command)) for command in verbs) > 30
    assert complaint("pip install .") is None
    assert complaint("pnseg quantise nano --precision int8 --out mine") == ""
    for wrong in ("pnseg quantise nano", "pnseg quantise nano --precision int4", "pnseg predicts a", "pnseg info --x"):
        assert "Error: " in complaint(wrong)
