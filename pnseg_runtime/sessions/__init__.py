"""Inference backends: a registry that is data, one small module a backend.

A backend's module has two functions. ``open_network(bundle, graph, opening)`` gives back a
:data:`Runner` for one of a bundle's networks; ``problem(opening)`` says in one sentence why the
backend cannot run on this machine, or gives None. Nothing of a backend is imported until it is asked
for, and one that was asked for and does not start is an error: nothing falls back in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any, get_args

from numpy.typing import NDArray

from pnseg_runtime.bundle import Bundle, GraphName
from pnseg_runtime.errors import BackendError

#: A network: named input arrays to named output arrays.
Runner = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]

AUTO = "auto"
#: The bundle's TensorRT engines and everything else on the GPU too, without sessions: :mod:`pnseg_runtime.cuda`.
CUDA = "cuda"


@dataclass(frozen=True)
class Backend:
    """A way to run a bundle's networks.

    Attributes:
        name: what the user asks for.
        module: where its ``open_network`` and ``problem`` are.
        needs: the package it runs on.
        install: what gives that package.
        device: where it computes.
        precisions: what it computes in. ``bfloat16`` is made of the float32 graphs by the backend.
        label: one line for people.
        provider: the execution provider, of a backend that is one of ONNX Runtime's.
    """

    name: str
    module: str
    needs: str
    install: str
    device: str
    precisions: tuple[str, ...]
    label: str
    provider: str = ""


_GRAPHS = ("float32", "float16", "int8")

#: In the order in which ``auto`` tries the devices; those of one device are timed against each other.
BACKENDS = {
    backend.name: backend
    for backend in [
        Backend(
            "onnxruntime-tensorrt",
            "pnseg_runtime.sessions.providers",
            "onnxruntime",
            'pip uninstall onnxruntime && pip install "pnseg[gpu]"',
            "gpu",
            _GRAPHS,
            "ONNX Runtime, TensorRT execution provider",
            "TensorrtExecutionProvider",
        ),
        Backend(
            "onnxruntime-rtx",
            "pnseg_runtime.sessions.providers",
            "onnxruntime",
            'pip uninstall onnxruntime && pip install "pnseg[gpu]"',
            "gpu",
            _GRAPHS,
            "ONNX Runtime, TensorRT for RTX execution provider",
            "NvTensorRTRTXExecutionProvider",
        ),
        Backend(
            "onnxruntime-cuda",
            "pnseg_runtime.sessions.providers",
            "onnxruntime",
            'pip uninstall onnxruntime && pip install "pnseg[gpu]"',
            "gpu",
            _GRAPHS,
            "ONNX Runtime, CUDA execution provider",
            "CUDAExecutionProvider",
        ),
        Backend(
            "openvino",
            "pnseg_runtime.sessions.openvino",
            "openvino",
            'pip install "pnseg[openvino]"',
            "cpu",
            ("float32", "bfloat16", "int8"),
            "OpenVINO on the CPU",
        ),
        Backend(
            "onnxruntime",
            "pnseg_runtime.sessions.onnxruntime",
            "onnxruntime",
            "pip install pnseg",
            "cpu",
            _GRAPHS,
            "ONNX Runtime on the CPU",
            "CPUExecutionProvider",
        ),
    ]
}

#: Every precision that some backend computes in.
PRECISIONS = tuple(dict.fromkeys(p for backend in BACKENDS.values() for p in backend.precisions))


@dataclass(frozen=True)
class Opening:
    """How networks are opened.

    Attributes:
        threads: CPU threads of an operator, None for the physical cores at hand.
        precision: what the networks compute in, one of the backend's ``precisions``.
        leave_out: outputs that nobody will read; a backend may spare itself the work for them.
        cache: whether a backend may keep what it makes of a graph (see :mod:`pnseg_runtime.sessions.cache`).
        backend: the backend's name, for modules that serve several.
    """

    threads: int | None = None
    precision: str = "float32"
    leave_out: frozenset[str] = frozenset()
    cache: bool = True
    backend: str = "onnxruntime"


@dataclass(frozen=True)
class Sessions:
    """A bundle's three networks, ready to run (their tensors: see :mod:`pnseg_runtime.pipeline`).

    Attributes:
        backend: name of the backend they run on; empty for networks of another kind.
        precision: what they compute in.
        reason: why it is this backend, one sentence.
    """

    prompter: Runner
    encoder: Runner
    decoder: Runner
    backend: str = field(default="", compare=False)
    precision: str = field(default="float32", compare=False)
    reason: str = field(default="", compare=False)


def open_sessions(
    bundle: Bundle,
    backend: str = "onnxruntime",
    threads: int | None = None,
    precision: str = "float32",
    leave_out: frozenset[str] = frozenset(),
    cache: bool = True,
) -> Sessions:
    """Open a bundle's networks with a backend.

    The networks take turns: a call waits until another thread's has returned. Two that run at the same
    time would take each other's cores.

    Args:
        bundle: an opened bundle.
        backend: a name in :data:`BACKENDS`, or ``"auto"`` for the fastest that really works.
        threads: CPU threads of an operator, None for the physical cores at hand.
        precision: one of the manifest's ``precisions``, or ``"bfloat16"`` where the backend has it.
        leave_out: outputs that nobody will read.
        cache: whether the backend may keep optimised graphs on disk.

    Raises:
        BackendError: an unknown backend, or one whose package is missing or does not start.
        BundleError: a network that the backend cannot read, or a precision that the bundle does not have.
    """
    opening = Opening(threads, precision, leave_out, cache, backend)
    if backend == AUTO:
        from pnseg_runtime.sessions.auto import open_fastest

        return open_fastest(bundle, opening)
    entry = find_backend(backend)
    if precision not in entry.precisions:
        raise BackendError(
            f"{backend}: does not compute in {precision}; choose one of {', '.join(entry.precisions)}, "
            f"or another backend."
        )
    module = load_backend(entry)
    if (problem := module.problem(opening)) is not None:
        raise BackendError(f"{backend}: {problem}")
    turn = Lock()
    networks = {graph: in_turn(module.open_network(bundle, graph, opening), turn) for graph in get_args(GraphName)}
    return Sessions(**networks, backend=backend, precision=precision, reason=f"{backend} was asked for.")


def find_backend(name: str) -> Backend:
    """A backend by its name.

    Raises:
        BackendError: there is none.
    """
    if name not in BACKENDS:
        raise BackendError(f"{name}: no such backend; choose one of {', '.join((AUTO, *BACKENDS))}.")
    return BACKENDS[name]


def load_backend(entry: Backend) -> ModuleType:
    """Import a backend's module.

    Raises:
        BackendError: its package is not installed or does not import.
    """
    try:
        return import_module(entry.module)
    except ImportError as error:
        raise BackendError(f"{entry.name}: {entry.needs} does not import ({error}); run: {entry.install}") from error


def in_turn(run: Runner, turn: Lock) -> Runner:
    """A network that waits for its turn."""

    def wait(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with turn:
            return run(inputs)

    return wait


def because(sessions: Sessions, reason: str) -> Sessions:
    """The same networks with another reason."""
    return replace(sessions, reason=reason)
