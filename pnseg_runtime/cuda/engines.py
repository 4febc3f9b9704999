"""Networks as engines on the GPU, both flavours of TensorRT behind the same few verbs.

An :class:`Engine` knows its tensors; an :class:`Execution` of it runs for one thread at a time, on addresses in device
memory and on a stream. TensorRT and TensorRT for RTX have the same calls for this; what differs is data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pnseg_runtime.bundle import Bundle, EngineFile
from pnseg_runtime.errors import BackendError, BundleError

Shape = tuple[int, ...]

log = logging.getLogger(__name__)


class Execution(Protocol):
    """A network that is ready to run, for one thread at a time."""

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the inputs' shapes; returns the outputs'."""

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Put the network on a stream (its handle), with the address of every input and output."""


class Engine(Protocol):
    """A network on the GPU.

    Attributes:
        inputs: name → element type.
        outputs: likewise.
    """

    inputs: dict[str, np.dtype[Any]]
    outputs: dict[str, np.dtype[Any]]

    def execution(self) -> Execution:
        """A new execution; engines are shared by threads, executions are not."""


@dataclass(frozen=True)
class Engines:
    """A bundle's three networks on the GPU."""

    prompter: Engine
    encoder: Engine
    decoder: Engine


@dataclass(frozen=True)
class Flavour:
    """A library that runs engines.

    Attributes:
        name: in a bundle's manifest.
        module: what is imported.
        install: what gives it.
    """

    name: str
    module: str
    install: str


FLAVOURS = {
    flavour.name: flavour
    for flavour in [
        Flavour("tensorrt", "tensorrt", "pip install 'pnseg[tensorrt]'"),
        Flavour("rtx", "tensorrt_rtx", "pip install 'pnseg[rtx]'"),
    ]
}


class TensorRTExecution:
    """An execution context of TensorRT."""

    def __init__(self, engine: TensorRTEngine, context: Any) -> None:
        self._engine = engine
        self._context = context

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """See :class:`Execution`.

        Raises:
            BackendError: a shape that the engine does not take.
        """
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError(
                    f"{self._engine.path}: the engine takes no {name} of shape {shape}; "
                    "predict with smaller batches or images, or build it with wider profiles."
                )
        if missing := self._context.infer_shapes():
            raise BackendError(f"{self._engine.path}: the engine still lacks {', '.join(missing)}; build it again.")
        found = {name: tuple(self._context.get_tensor_shape(name)) for name in self._engine.outputs}
        for name, shape in found.items():
            if any(side < 0 for side in shape):
                raise BackendError(
                    f"{self._engine.path}: the shape of {name} depends on its values ({shape}); build the engine again."
                )
        return found

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """See :class:`Execution`.

        Raises:
            BackendError: TensorRT refuses an address or to run.
        """
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise BackendError(f"{self._engine.path}: TensorRT takes no address for {name}.")
        if not self._context.execute_async_v3(stream):
            raise BackendError(f"{self._engine.path}: TensorRT cannot run this engine; its log says more.")


class TensorRTEngine:
    """An engine file of either flavour."""

    def __init__(self, path: Path, flavour: Flavour) -> None:
        """Load an engine.

        Args:
            path: the file.
            flavour: of the library that built it.

        Raises:
            BackendError: the library is missing, or cannot load the engine on this GPU.
        """
        try:
            trt = import_module(flavour.module)
        except ImportError as error:
            raise BackendError(f"{flavour.module} does not import ({error}); run: {flavour.install}") from error
        self.path = path
        self._trt = trt
        # The runtime has to live as long as its engines.
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BackendError(
                f"{path}: {flavour.module} {trt.__version__} cannot load this engine on this GPU; "
                "build engines on this machine: pnseg build"
            )
        self.inputs: dict[str, np.dtype[Any]] = {}
        self.outputs: dict[str, np.dtype[Any]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            tensors = self.inputs if is_input else self.outputs
            tensors[name] = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))

    def execution(self) -> TensorRTExecution:
        """See :class:`Engine`.

        Raises:
            BackendError: TensorRT gives no execution context.
        """
        config = self._engine.create_runtime_config()
        # RTX alone: its fallback kernels, until specialised ones are compiled, would be slow and change numbers later.
        strategy = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategy is not None:
            config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        context = self._engine.create_execution_context(config)
        if context is None:
            raise BackendError(f"{self.path}: TensorRT gives no execution context; the GPU may be out of memory.")
        return TensorRTExecution(self, context)


def fitting(candidates: list[EngineFile], architecture: str, version: str) -> EngineFile | None:
    """The first engine for a GPU and a version of the library that built it."""
    return next((each for each in candidates if architecture in each.architectures and each.version == version), None)


def open_engines(bundle: Bundle, capability: tuple[int, int], precision: str = "float32") -> Engines:
    """The bundle's engines for a GPU, of the first flavour that is installed and has all three.

    Args:
        bundle: an opened bundle.
        capability: (major, minor) of the GPU.
        precision: of the graphs that the engines were built from.

    Raises:
        BundleError: the bundle has no engines.
        BackendError: none that fit this GPU and the installed libraries, or they do not load.
    """
    engines, architecture = bundle.manifest.engines, f"sm{capability[0]}{capability[1]}"
    if not engines:
        raise BundleError(f"{bundle.folder}: the bundle has no engines; build them with pnseg build.")
    reasons = []
    for flavour in FLAVOURS.values():
        try:
            version = import_module(flavour.module).__version__
        except ImportError:
            reasons.append(f"{flavour.module} is not installed ({flavour.install})")
            continue
        own = [each for each in engines if (each.flavour, each.precision) == (flavour.name, precision)]
        parts = {
            name: fitting([each for each in own if each.graph == name], architecture, version)
            for name in ("prompter", "encoder", "decoder")
        }
        if missing := [name for name, part in parts.items() if part is None]:
            reasons.append(
                f"no {precision} engine of {', '.join(missing)} for {architecture} and {flavour.module} {version}"
            )
            continue
        log.info("engines: %s %s for %s", flavour.name, version, architecture)
        return Engines(
            **{name: TensorRTEngine(bundle.folder / part.file, flavour) for name, part in parts.items() if part}
        )
    raise BackendError(
        f"{bundle.folder}: no engines of this bundle fit this machine ({'; '.join(reasons)}); "
        "build them here with pnseg build."
    )
