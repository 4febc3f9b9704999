"""The command ``pnseg``: a group whose verbs are data and are imported when they are run."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from types import FrameType

from pnseg_runtime.cli.group import LazyGroup
from pnseg_runtime.cli.verbs import VERBS

__all__ = ["cli", "main"]

cli = LazyGroup("pnseg", VERBS)


def main() -> None:
    """Entry point of the ``pnseg`` script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that cannot be encoded must not cost the whole report
        sys.stdout.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        _clean_up_when_terminated()
    cli(prog_name="pnseg")


def _clean_up_when_terminated() -> None:
    """Let SIGTERM, with which schedulers and services end a process, unwind as Ctrl-C does: drafts are removed."""
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return
    main_process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != main_process:  # a fork, such as a worker that reads training data, ends as it always has
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
