"""Engines of TensorRT, both flavours behind the same few verbs.

TensorRT and TensorRT for RTX have the same calls for what is needed here; what differs is data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pnseg_runtime.cuda.engines import Profile, Scratch, Shape, profile_of
from pnseg_runtime.cuda.flavours import Flavour
from pnseg_runtime.errors import BackendError
from pnseg_runtime.sessions.cache import is_sound, keep

LOGGER = logging.getLogger("pnseg.tensorrt")


@cache
def logger(module: str) -> Any:
    """A library's messages as those of :mod:`logging`; one for all that it makes, which keeps no reference to it."""
    trt = import_module(module)
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def log(self, severity: Any, message: str) -> None:
            if severity in levels:  # what is left is about each kernel
                LOGGER.log(levels[severity], "%s", message)

    return Logger()


@contextmanager
def raised(path: Path) -> Iterator[None]:
    """The errors that TensorRT's bindings raise instead of saying no, as pnseg's.

    Raises:
        BackendError: that names the engine.
    """
    try:
        yield
    except RuntimeError as error:
        told = str(error).rstrip(".")
        raise BackendError(f"{path}: {told}; the GPU may be out of memory: take smaller images or batches.") from error


class Context:
    """An execution context of TensorRT with its profile, which is told only what is new to it.

    A context keeps its profile: TensorRT would have to wait and to prepare itself anew to change it.
    """

    def __init__(self, engine: TensorRTEngine, profile: int, stream: int) -> None:
        """Make it.

        Raises:
            BackendError: no memory for it, or TensorRT does not take the profile.
        """
        self._path = engine.path
        self._outputs = tuple(engine.outputs)
        self._size = engine.scratch_size(profile)
        self._context = engine.context()
        self._stream = stream
        self._shapes: dict[str, Shape] = {}
        self._made: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        if not self._context.set_optimization_profile_async(profile, stream):
            raise BackendError(f"{self._path}: TensorRT does not take its profile {profile}; build it again.")

    def shape(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the inputs' shapes; returns the outputs'.

        Raises:
            BackendError: TensorRT does not take them.
        """
        if shapes == self._shapes:
            return self._made
        self._shapes = {}  # until all of them are set
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError(f"{self._path}: TensorRT takes no {name} of shape {shape}; build the engine again.")
        if missing := self._context.infer_shapes():
            raise BackendError(f"{self._path}: the engine still lacks {', '.join(missing)}; build it again.")
        self._made = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
        for name, shape in self._made.items():
            if any(side < 0 for side in shape):
                raise BackendError(
                    f"{self._path}: the shape of {name} depends on its values ({shape}); build the engine again."
                )
        self._shapes = dict(shapes)
        return self._made

    def run(self, addresses: Mapping[str, int], scratch: Scratch) -> None:
        """Put it on its stream.

        Raises:
            BackendError: TensorRT refuses an address or to run, or there is no memory for it.
        """
        if (place := scratch(self._size)) != self._scratch:
            self._context.set_device_memory(place, self._size)
            self._scratch = place
        for name, address in addresses.items():
            if self._addresses.get(name) != address and not self._context.set_tensor_address(name, address):
                raise BackendError(f"{self._path}: TensorRT takes no address for {name}.")
            self._addresses[name] = address
        if not self._context.execute_async_v3(self._stream):
            raise BackendError(f"{self._path}: TensorRT cannot run this engine; its log says more.")


class TensorRTExecution:
    """Execution contexts of TensorRT, all on one stream and in the same memory.

    What is captured has one for each set of shapes that was ever needed: a graph no longer holds when its context is
    changed. Batches come in few sizes. What is not captured may have any shapes, and has one for each profile.
    """

    def __init__(self, engine: TensorRTEngine, stream: int, scratch: Scratch, captured: bool) -> None:
        self._engine, self._stream = engine, stream
        self._scratch, self._captured = scratch, captured
        self._contexts: dict[tuple[Any, ...], Context] = {}
        self._context: Context | None = None

    def __del__(self) -> None:
        self._context = None
        self._contexts.clear()  # before the engine that has made them

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """See :class:`Execution`.

        Raises:
            BackendError: shapes that the engine does not take, or no memory for an execution context.
        """
        profile = profile_of(self._engine.profiles, shapes, self._engine.path)
        key = (profile, *sorted(shapes.items())) if self._captured else (profile,)
        with raised(self._engine.path):
            if key not in self._contexts:
                self._contexts[key] = Context(self._engine, profile, self._stream)
            self._context = self._contexts[key]
            return self._context.shape(shapes)

    def run(self, addresses: Mapping[str, int]) -> None:
        """See :class:`Execution`.

        Raises:
            BackendError: TensorRT refuses an address or to run, there is no memory for it, or it has no shapes yet.
        """
        if self._context is None:
            raise BackendError(f"{self._engine.path}: the engine has no shapes yet.")
        with raised(self._engine.path):
            self._context.run(addresses, self._scratch)


class TensorRTEngine:
    """An engine file of either flavour.

    Its last reference is to go where the GPU's context is current.
    """

    def __init__(self, path: Path, flavour: Flavour, compiled: Path | None = None) -> None:
        """Load an engine.

        Args:
            path: the file.
            flavour: of the library that built it.
            compiled: where TensorRT for RTX keeps the kernels that it compiles on this GPU, which takes it long.

        Raises:
            BackendError: the library is missing, or cannot load the engine on this GPU.
        """
        try:
            trt = import_module(flavour.module)
        except (ImportError, OSError) as error:
            raise BackendError(f"{flavour.module} does not import ({error}); run: {flavour.install}") from error
        self.path = path
        self._trt = trt
        self._lock = Lock()
        self._compiled, self._loaded = compiled, b""
        self._cache: Any = None
        try:
            # The runtime has to live as long as its engines.
            self._runtime = trt.Runtime(logger(flavour.module))
        except TypeError as error:  # a constructor that gives nothing, in the words of the binding
            raise BackendError(
                f"{path}: {flavour.module} {trt.__version__} does not start; its log says why, mostly a driver that "
                "is older than its CUDA: pnseg doctor"
            ) from error
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

        self.profiles: list[Profile] = [
            {name: self._range(name, index) for name in self.inputs}
            for index in range(self._engine.num_optimization_profiles)
        ]
        self._config = self._runtime_config()

    def __del__(self) -> None:
        with suppress(Exception):  # what could not be kept is compiled again
            self._keep_compiled()
        for made in ("_cache", "_config", "_engine", "_runtime"):  # each before what has made it
            self.__dict__.pop(made, None)

    def execution(self, stream: int, scratch: Scratch, captured: bool) -> TensorRTExecution:
        """See :class:`Engine`."""
        return TensorRTExecution(self, stream, scratch, captured)

    def scratch_size(self, profile: int) -> int:
        """Bytes that an execution context needs for what is between the layers, at most, with one of the profiles."""
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def _runtime_config(self) -> Any:
        """How execution contexts are made: they are given their memory, so that they can share it."""
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # RTX alone: its fallback kernels, until specialised ones are compiled, would be slow and change numbers later.
        strategy = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategy is not None:
            config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
            # What one context has compiled serves the others; the cache has to live as long as they do.
            self._cache = config.create_runtime_cache()
            if self._compiled is not None and is_sound(self._compiled):
                content = self._compiled.read_bytes()
                if self._cache.deserialize(content):  # it is of this GPU, library and driver
                    self._loaded = content
            if not config.set_runtime_cache(self._cache):
                raise BackendError(f"{self.path}: TensorRT takes no cache of kernels; its log says why.")
        return config

    def _keep_compiled(self) -> None:
        """Write down what was compiled, if it is more than there was."""
        if self._cache is None or self._compiled is None:
            return
        content = bytes(self._cache.serialize())
        if content != self._loaded:
            keep(self._compiled, content)

    def context(self) -> Any:
        """A new execution context.

        Raises:
            BackendError: TensorRT gives none.
        """
        with self._lock:  # TensorRT leaves it to its user that several threads do not do this at once
            context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(f"{self.path}: TensorRT gives no execution context; the GPU may be out of memory.")
        return context

    def _range(self, name: str, profile: int) -> tuple[Shape, Shape]:
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, profile)
        return tuple(smallest), tuple(largest)
