"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions import Runner

#: Errors only: warnings about a graph's details mean nothing to those who use it.
ERRORS_ONLY = 3


def open_session(path: Path, threads: int | None = None) -> Runner:
    """Open the network in an ONNX file.

    Args:
        path: the file.
        threads: of an operator, None for :func:`physical_cores`.

    Raises:
        BundleError: the file is missing or not a network that ONNX Runtime reads.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.inter_op_num_threads = 1  # the networks are chains: there is nothing to run side by side
    options.log_severity_level = ERRORS_ONLY
    # Each network has threads of its own. Left spinning when it has run, they take the cores from the
    # next network: a tile on two cores then takes twice as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public common class
        reason = _first_line(error)
        raise BundleError(
            f"{path}: ONNX Runtime cannot read this network ({reason}); export the bundle again."
        ) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:
            raise BackendError(f"{path}: ONNX Runtime failed to run this network ({_first_line(error)}).") from error

    return run


def physical_cores() -> int:
    """Physical cores that this process may use; where they cannot be told apart, its logical ones."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    return len({_core(cpu) for cpu in allowed}) or 1


def _core(cpu: int) -> str:
    """What the hardware threads of one core have in common."""
    try:
        return (
            Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
        )
    except OSError:
        return str(cpu)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
