"""The command, in this process and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from pnseg_runtime.cli import cli

ROOT = Path(__file__).parents[3]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


# The command in a process of its own, with a model made by hand in the place of a bundle.
MAIN = """
from pnseg_runtime.cli import main, predict
from tests.runtime.made import DarkSpotModel
predict.load = lambda *_, **__: DarkSpotModel()
"""
