"""The group of verbs: help, completion, errors and signals."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.cli.group import LazyGroup, load_verb, show_warning
from pnseg_runtime.cli.verbs import VERBS, Verb
from pnseg_runtime.errors import BundleError
from tests.runtime.cli.command import MAIN, python, run
from tests.runtime.made import SAMPLES


def test_help_lists_every_verb_and_imports_none() -> None:
    code = (
        "import sys; from pnseg_runtime.cli import cli; cli(['--help'], standalone_mode=False);"
        "sys.exit(any(name.endswith(('cli.predict', 'cli.info')) or name.startswith(('torch', 'pnseg_train'))"
        " for name in sys.modules))"
    )
    finished = python(code)
    assert finished.returncode == 0
    for verb in VERBS:
        assert f"  {verb.name} " in finished.stdout
        assert verb.help.split()[0] in finished.stdout


def test_the_version_is_printed() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("pnseg ")


def test_an_unknown_verb_is_wrong_usage() -> None:
    assert run("guess").exit_code == 2


def test_a_verb_whose_extra_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_torch.py").write_text("import torch.nn\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    group = LazyGroup("pnseg", [*VERBS, Verb("fit", "needs_torch:fit", "Fit.", extra="train")])
    result = CliRunner().invoke(group, ["fit"])
    assert result.exit_code == 2
    assert result.stderr == 'Error: pnseg fit needs PyTorch: pip install "pnseg[train]"\n'
    assert CliRunner().invoke(group, ["info", "--help"]).exit_code == 0


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="pnseg_train"):
        load_verb(Verb("fit", "pnseg_train.no_such_module:fit", "Fit.", extra="train"))


def test_a_library_the_plain_installation_brings_is_never_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError):
        load_verb(Verb("look", "no_such_library:look", "Look."))


def completed(*words: str, code: str = "") -> list[str]:
    """What bash is offered for the last word, one ``type,value`` a line."""
    asked = {"COMP_WORDS": shlex.join(("pnseg", *words)), "COMP_CWORD": str(len(words))}
    done = python(f"{code}\nfrom pnseg_runtime.cli import main; main()", _PNSEG_COMPLETE="bash_complete", **asked)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_names_of_verbs_are_completed_without_importing_one() -> None:
    modules = {verb.target.partition(":")[0] for verb in VERBS}
    code = f"import atexit, sys; atexit.register(lambda: print(*{modules}.intersection(sys.modules)))"
    assert completed("e", code=code) == [*(f"plain,{verb.name}" for verb in VERBS if verb.name[0] == "e"), ""]
    context = click.Context(cli, resilient_parsing=True)
    offered = {item.value: item.help for item in cli.shell_complete(context, "")}
    assert offered == {verb.name: verb.help for verb in VERBS}


def test_options_values_and_files_of_a_verb_are_completed() -> None:
    assert completed("predict", "--rec") == ["plain,--recursive"]
    assert completed("predict", "--assignment", "cen") == ["plain,central"]
    assert [line.partition(",")[0] for line in completed("predict", "ti")] == ["file"]
    assert completed("--ver") == ["plain,--verbose", "plain,--version"]


def test_a_verb_whose_extra_is_missing_has_no_options_to_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_torch.py").write_text("import torch.nn\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    group = LazyGroup("pnseg", [Verb("fit", "needs_torch:fit", "Fit.", extra="train")])
    command = group.get_command(click.Context(group, resilient_parsing=True), "fit")
    assert command is not None
    assert (command.name, command.help, command.params) == ("fit", "Fit.", [])


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("", True), ("1", False)])
def test_no_color_takes_the_colour_of_errors_and_warnings(
    no_color: str | None, colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        show_warning("look at this")
        raise BundleError("b/: no bundle here; export one.")

    result = CliRunner(env={"NO_COLOR": no_color}).invoke(group_of(fail, monkeypatch), ["do"], color=True)
    assert [line.startswith("\x1b[3") for line in result.stderr.splitlines()] == [colored, colored]


def group_of(callback: Any, monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    monkeypatch.setattr("pnseg_runtime.cli.group.load_verb", lambda verb: click.Command("do", callback=callback))
    return LazyGroup("pnseg", [Verb("do", "nowhere:do", "Do.")])


def test_an_error_of_pnseg_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BundleError("b/: no bundle here; export one.")

    result = CliRunner().invoke(group_of(fail, monkeypatch), ["do"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: b/: no bundle here; export one.\n")


def test_an_interruption_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(group_of(interrupt, monkeypatch), ["do"])
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


@pytest.mark.skipif(os.name != "posix", reason="signals are a matter of POSIX")
def test_a_termination_is_exit_code_143_and_leaves_no_draft(tmp_path: Path) -> None:
    code = MAIN + (
        "import os, signal; from pnseg_runtime import outputs\n"
        "def write(prediction, stream):\n"
        "    stream.write(b'half')\n"
        "    print(len(os.listdir(os.environ['OUT'])))\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "outputs.OutputKind.load = lambda kind: write\n"
        "main()"
    )
    out = tmp_path / "out"
    finished = python(code, "predict", SAMPLES / "he_pink.png", "--out", out, "--only", "csv,labels", OUT=str(out))
    assert (finished.returncode, finished.stdout, finished.stderr) == (143, "2\n", "")
    assert list(out.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals are a matter of POSIX")
def test_a_fork_is_terminated_as_any_other_process() -> None:
    code = (
        "import os, signal; from pnseg_runtime import cli\n"
        "def fork(**_):\n"
        "    if os.fork() == 0:\n"
        "        try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "        finally: os._exit(0)\n"
        "    print(os.wait()[1])\n"
        "cli.cli = fork; cli.main()"
    )
    assert python(code).stdout == "15\n"
