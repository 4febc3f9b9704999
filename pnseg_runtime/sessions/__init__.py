"""Inference backends: a registry that is data, one small module a backend.

A backend's module has two functions. ``open_network(bundle, graph, opening)`` gives back a
:data:`Runner` for one of a bundle's networks; ``problem(opening)`` says in one sentence why the
backend cannot run on this machine, or gives None. Nothing of a backend is imported until it is asked
for, and one that was asked for and does not start is an error: nothing falls back in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any, get_args

from numpy.typing import NDArray

from pnseg_runtime.bundle import GRAPH_PRECISIONS, Bundle, GraphName, Manifest
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.limits import USUAL, Limits

#: A network: named input arrays to named output arrays.
Runner = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]

AUTO = "auto"
#: The bundle's engines with everything around them on the GPU too, which needs no session: :mod:`pnseg_runtime.cuda`.
CUDA = "cuda"


NO_SESSION = (
    f"{CUDA}: takes whole images, with everything on the GPU, and is there for pnseg predict and pnseg_runtime.load; "
    "choose tensorrt, which runs the same engines."
)


@dataclass(frozen=True)
class Backend:
    """A way to run a bundle's networks.

    Attributes:
        name: what the user asks for.
        module: where its ``open_network`` and ``problem`` are.
        needs: the package it runs on.
        install: the command that gives that package, or that does without it: what stands behind "run:".
        device: where it computes.
        precisions: what it computes in. ``bfloat16`` is made of the float32 graphs by the backend.
        provider: the execution provider, of a backend that is one of ONNX Runtime's.
        engines: whether it runs a bundle's engines, not its graphs.
        limits: the largest inputs that it opens graphs for; None for inputs of any size.
    """

    name: str
    module: str
    needs: str
    install: str
    device: str
    precisions: tuple[str, ...]
    provider: str = ""
    engines: bool = False
    limits: Limits | None = None


#: What gives ONNX Runtime's GPU providers to an installed pnseg. Both packages in one environment overwrite each other.
GPU_INSTALL = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "onnxruntime-gpu[cuda,cudnn]"'

#: In the order in which ``auto`` tries the devices; those of one device are timed against each other.
BACKENDS = {
    backend.name: backend
    for backend in [
        Backend(
            name="onnxruntime-tensorrt",
            module="pnseg_runtime.sessions.providers",
            needs="onnxruntime",
            install=GPU_INSTALL,
            device="gpu",
            precisions=GRAPH_PRECISIONS,
            provider="TensorrtExecutionProvider",
            limits=USUAL,
        ),
        Backend(
            name="onnxruntime-rtx",
            module="pnseg_runtime.sessions.providers",
            needs="onnxruntime",
            install="pnseg predict … --backend tensorrt  (the bundle's engines; onnxruntime-gpu is not built with that "
            "provider)",
            device="gpu",
            precisions=GRAPH_PRECISIONS,
            provider="NvTensorRTRTXExecutionProvider",
            limits=USUAL,
        ),
        Backend(
            name="onnxruntime-cuda",
            module="pnseg_runtime.sessions.providers",
            needs="onnxruntime",
            install=GPU_INSTALL,
            device="gpu",
            precisions=GRAPH_PRECISIONS,
            provider="CUDAExecutionProvider",
        ),
        Backend(
            name="tensorrt",
            module="pnseg_runtime.sessions.tensorrt",
            needs="pycuda",
            install="pip install 'pnseg[tensorrt]'  (it needs a CUDA toolkit)",
            device="gpu",
            precisions=GRAPH_PRECISIONS,
            engines=True,
        ),
        Backend(
            name="openvino",
            module="pnseg_runtime.sessions.openvino",
            needs="openvino",
            install='pip install "pnseg[openvino]"',
            device="cpu",
            precisions=("float32", "bfloat16", "int8"),
        ),
        Backend(
            name="onnxruntime",
            module="pnseg_runtime.sessions.onnxruntime",
            needs="onnxruntime",
            install="pip install pnseg",
            device="cpu",
            precisions=GRAPH_PRECISIONS,
            provider="CPUExecutionProvider",
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
        passed_over: of ``auto``: why each backend that was tried does not work, a sentence each.
        limits: what engines take at most; None for networks that take anything.
    """

    prompter: Runner
    encoder: Runner
    decoder: Runner
    backend: str = field(default="", compare=False)
    precision: str = field(default="float32", compare=False)
    reason: str = field(default="", compare=False)
    passed_over: tuple[str, ...] = field(default=(), compare=False)
    limits: Limits | None = field(default=None, compare=False)


def open_sessions(
    bundle: Bundle,
    backend: str = "onnxruntime",
    threads: int | None = None,
    precision: str | None = None,
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
        precision: one of the manifest's ``precisions``, or ``"bfloat16"`` where the backend has it; None for
            :func:`default_precision`.
        leave_out: outputs that nobody will read.
        cache: whether the backend may keep optimised graphs on disk.

    Raises:
        BackendError: an unknown backend, or one whose package is missing or does not start.
        BundleError: a network that the backend cannot read, or a precision that the bundle does not have.
    """
    if backend == AUTO:
        from pnseg_runtime.sessions.auto import open_fastest

        return open_fastest(bundle, threads, precision, leave_out, cache)
    entry = find_backend(backend)
    precision = precision or default_precision(backend, bundle.manifest)
    opening = Opening(threads, precision, leave_out, cache, backend)
    if precision not in entry.precisions:
        raise BackendError(
            f"{backend}: does not compute in {precision}; choose one of {', '.join(entry.precisions)}, "
            f"or another backend."
        )
    if entry.engines:
        require_engines(bundle)
    module = load_backend(entry)
    if (problem := module.problem(opening)) is not None:
        raise BackendError(f"{backend}: {problem}")
    opened = {graph: module.open_network(bundle, graph, opening) for graph in get_args(GraphName)}
    turn = Lock()
    networks: dict[str, Any] = {graph: in_turn(network, turn) for graph, network in opened.items()}
    limits = module.limits(opened) if entry.engines else entry.limits
    return Sessions(**networks, backend=backend, precision=precision, reason=f"{backend} was asked for.", limits=limits)


def default_precision(backend: str, manifest: Manifest) -> str:
    """What a backend computes in where nobody has chosen: float32, or what the bundle's engines were built in.

    It does not depend on the machine.

    Args:
        backend: a name in :data:`BACKENDS`, or ``"cuda"``.
        manifest: the bundle's.
    """
    if backend == CUDA or (backend in BACKENDS and BACKENDS[backend].engines):
        return manifest.engine_precision or "float32"
    return "float32"


def require_engines(bundle: Bundle) -> None:
    """Refuse a bundle without engines: TensorRT has nothing to run. Asked before a GPU is looked for.

    Raises:
        BundleError: the bundle has no engines.
    """
    if not bundle.manifest.engines:
        raise BundleError(f"{bundle.folder}: the bundle has no engines; build them with pnseg build.")


def find_backend(name: str) -> Backend:
    """A backend by its name.

    Raises:
        BackendError: there is none.
    """
    if name == CUDA:
        raise BackendError(NO_SESSION)
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
