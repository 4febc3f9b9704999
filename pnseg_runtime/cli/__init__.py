"""The command ``pnseg``: a group whose verbs are data and are imported when they are run."""

from __future__ import annotations

from pnseg_runtime.cli.group import LazyGroup
from pnseg_runtime.cli.verbs import VERBS

__all__ = ["cli", "main"]

cli = LazyGroup("pnseg", VERBS)


def main() -> None:
    """Entry point of the ``pnseg`` script."""
    cli(prog_name="pnseg")
