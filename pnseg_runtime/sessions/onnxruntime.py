"""ONNX Runtime on the CPU, and what its other execution providers share with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError, BundleError, one_line
from pnseg_runtime.sessions import Opening, Runner
from pnseg_runtime.sessions.cache import cached
from pnseg_runtime.sessions.cpu import physical_cores
from pnseg_runtime.sessions.prune import pruned

Shapes = tuple[tuple[int, ...], ...]

#: Errors only: warnings about a graph's details mean nothing to those who use it.
ERRORS_ONLY = 3
CPU = "CPUExecutionProvider"
#: Name of the option by which 8-bit products are summed up without saturation.
QUANTISED = "session.x64quantprecision"


def problem(_: Opening) -> str | None:
    """None: whatever imports this module can run it."""
    return None


def open_network(bundle: Bundle, graph: str, opening: Opening) -> Runner:
    """One of a bundle's networks.

    Raises:
        BundleError: the bundle has no such graph, or one that ONNX Runtime cannot read.
    """
    path = bundle.path(graph, opening.precision)
    entry = bundle.graph(graph, opening.precision)
    leave_out = opening.leave_out & set(entry.outputs)
    # A graph whose weights lie beside it finds them by its own folder, so it stays there.
    if not opening.cache or entry.data:
        return open_session(path, opening.threads, frozenset() if entry.data else leave_out)

    def optimise(scratch: Path) -> None:
        options = session_options(opening.threads)
        options.optimized_model_filepath = os.fspath(scratch)
        try:
            _open(path, options, leave_out)
        except BundleError as error:
            # ONNX Runtime does not tell a graph that it cannot read from one that it cannot write, on a full disk say.
            # The former is told when it is opened without the cache.
            raise OSError(one_line(error.__cause__ or error)) from error

    parts = ("onnxruntime", onnxruntime.__version__, QUANTISED, entry.sha256, *sorted(leave_out))
    optimised = cached(bundle.folder, parts, f".{path.stem}.onnx", optimise)
    if optimised is None:
        return open_session(path, opening.threads, leave_out)
    options = session_options(opening.threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runner(_open(optimised, options), path)


def open_session(path: Path, threads: int | None = None, leave_out: frozenset[str] = frozenset()) -> Runner:
    """Open the network in an ONNX file.

    Args:
        path: the file.
        threads: of an operator, None for :func:`~pnseg_runtime.sessions.cpu.physical_cores`.
        leave_out: outputs that nobody will read; what only they need is not computed.

    Raises:
        BundleError: the file is missing or not a network that ONNX Runtime reads.
    """
    return runner(_open(path, session_options(threads), leave_out), path)


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """How a session runs here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.inter_op_num_threads = 1  # the networks are chains: there is nothing to run side by side
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # What a run needed is kept for the next one, in one arena for all networks, which take turns. Patterns
    # of allocations would be kept for every number of windows and prompts that ever occurred.
    share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    options.log_severity_level = ERRORS_ONLY
    # Each network has threads of its own. Left spinning when it has run, they take the cores from the
    # next network: a tile on two cores then takes twice as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Without VNNI, 8-bit products are summed up in pairs of 16 bits, which saturate. Sums that do not are slower; where
    # there is VNNI, this changes nothing.
    options.add_session_config_entry(QUANTISED, "1")
    return options


@cache
def share_arena() -> None:
    """Make one arena for all sessions of this process; it grows by what is needed, not by doubling."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    by_request = {"arena_extend_strategy": 1}  # kSameAsRequested
    with suppress(Exception):  # ONNX Runtime's own: somebody else's code has made one already
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(by_request))


def _open(
    path: Path, options: onnxruntime.SessionOptions, leave_out: frozenset[str] = frozenset()
) -> onnxruntime.InferenceSession:
    try:
        network = pruned(path.read_bytes(), leave_out) if leave_out else os.fspath(path)
        return onnxruntime.InferenceSession(network, options, providers=[CPU])
    except Exception as error:  # ONNX Runtime's exceptions have no public common class
        raise BundleError(
            f"{path}: ONNX Runtime cannot read this network ({one_line(error)}); export the bundle again."
        ) from error


def runner(session: onnxruntime.InferenceSession, path: Path) -> Runner:
    """A session as a function of arrays, whose outputs lie in memory that is used again.

    Args:
        session: the network.
        path: named in errors.
    """
    names = [output.name for output in session.get_outputs()]
    types = [element_type(output.type) for output in session.get_outputs()]
    buffers = Buffers()
    # Shapes of the outputs by those of the inputs: ONNX Runtime tells them when it has run.
    known: dict[Shapes, Shapes] = {}

    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        key: Shapes = tuple(array.shape for array in inputs.values())
        arrays: Sequence[NDArray[Any]]
        if key in known:
            arrays = [buffers.take(shape, dtype) for shape, dtype in zip(known[key], types, strict=True)]
            for name, array, dtype in zip(names, arrays, types, strict=True):
                binding.bind_output(name, "cpu", 0, dtype, array.shape, array.ctypes.data)
        else:
            for name in names:
                binding.bind_output(name, "cpu")
            arrays = []
        try:
            session.run_with_iobinding(binding)
            arrays = arrays or binding.copy_outputs_to_cpu()
        except Exception as error:
            raise BackendError(f"{path}: ONNX Runtime failed to run this network ({one_line(error)}).") from error
        known[key] = tuple(array.shape for array in arrays)
        return dict(zip(names, arrays, strict=True))

    return run


def element_type(name: str) -> type[np.generic]:
    """The NumPy type of ``tensor(float)`` and its like."""
    return _TYPES[name]


_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}
