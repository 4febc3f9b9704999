"""Networks as engines on the GPU, both flavours of TensorRT behind the same few verbs.

An :class:`Engine` knows its tensors; an :class:`Execution` of it runs for one thread at a time, on addresses in device
memory and on a stream. TensorRT and TensorRT for RTX have the same calls for this; what differs is data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np

from pnseg_runtime.bundle import Bundle, EngineFile, GraphName
from pnseg_runtime.cuda.nvidia import architecture
from pnseg_runtime.errors import BackendError
from pnseg_runtime.sessions import require_engines

Shape = tuple[int, ...]
#: An input's name → the smallest and the largest shape.
Profile = dict[str, tuple[Shape, Shape]]
#: Bytes → the address of that much memory on the GPU, or more. Executions on one stream share it: they run one by one.
Scratch = Callable[[int], int]

log = logging.getLogger(__name__)


class Execution(Protocol):
    """A network that is ready to run, for one thread at a time."""

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the inputs' shapes; returns the outputs'."""

    def run(self, addresses: Mapping[str, int]) -> None:
        """Put the network on its stream, with the address of every input and output."""


class Engine(Protocol):
    """A network on the GPU.

    Attributes:
        inputs: name → element type.
        outputs: likewise.
        profiles: for each optimisation profile, an input's name → the smallest and the largest shape it takes.
    """

    inputs: dict[str, np.dtype[Any]]
    outputs: dict[str, np.dtype[Any]]
    profiles: list[Profile]

    def execution(self, stream: int, scratch: Scratch, captured: bool) -> Execution:
        """A new execution; engines are shared by threads, executions are not.

        Args:
            stream: handle of the stream that it runs on.
            scratch: gives the memory for what is between the network's layers; asked whenever it runs.
            captured: whether runs are captured into graphs, which hold for as long as nothing of theirs is changed.
        """


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

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """See :class:`Execution`.

        Raises:
            BackendError: shapes that the engine does not take, or no memory for an execution context.
        """
        profile = profile_of(self._engine.profiles, shapes, self._engine.path)
        key = (profile, *sorted(shapes.items())) if self._captured else (profile,)
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
        self._context.run(addresses, self._scratch)


def profile_of(profiles: Sequence[Profile], shapes: Mapping[str, Shape], path: Path) -> int:
    """The first profile that takes all shapes.

    Args:
        profiles: of an engine.
        shapes: of its inputs.
        path: the engine's, named in errors.

    Raises:
        BackendError: none does; with what the engine takes.
    """
    for index, profile in enumerate(profiles):
        if all(_within(shape, *profile[name]) for name, shape in shapes.items()):
            return index
    taken = {
        name: [profile[name] for profile in profiles]
        for name, shape in shapes.items()
        if not any(_within(shape, *profile[name]) for profile in profiles)
    }
    if not taken:
        told = ", ".join(f"{name} {times(shape)}" for name, shape in shapes.items())
        raise BackendError(f"{path}: no profile of the engine takes all of {told}; build it with wider profiles.")
    name, ranges = next(iter(taken.items()))
    told = " or ".join(f"{times(least)} to {times(most)}" for least, most in ranges)
    fits = any(least[0] <= shapes[name][0] <= most[0] for least, most in ranges)
    remedy = (
        "take as many negative prompts as the bundle says, since engines are built for no more"
        if name in {"point_coords", "point_labels"} and fits
        else "take smaller images or batches, or build it for larger ones (pnseg build --side, --batches, --prompts)"
    )
    raise BackendError(f"{path}: the engine takes no {name} of {times(shapes[name])}, but {told}; {remedy}.")


def largest_shapes(profiles: Sequence[Profile]) -> list[dict[str, Shape]]:
    """For each profile, an input's name → the largest shape it takes."""
    return [{name: largest for name, (_, largest) in profile.items()} for profile in profiles]


def times(shape: Shape) -> str:
    """A shape as people write it."""
    return "×".join(map(str, shape))


def _within(shape: Shape, smallest: Shape, largest: Shape) -> bool:
    return len(shape) == len(smallest) and all(
        least <= side <= most for least, side, most in zip(smallest, shape, largest, strict=True)
    )


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
        except (ImportError, OSError) as error:
            raise BackendError(f"{flavour.module} does not import ({error}); run: {flavour.install}") from error
        self.path = path
        self._trt = trt
        try:
            # The runtime has to live as long as its engines.
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
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
            config.set_runtime_cache(self._cache)
        return config

    def context(self) -> Any:
        """A new execution context.

        Raises:
            BackendError: TensorRT gives none.
        """
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(f"{self.path}: TensorRT gives no execution context; the GPU may be out of memory.")
        return context

    def _range(self, name: str, profile: int) -> tuple[Shape, Shape]:
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, profile)
        return tuple(smallest), tuple(largest)


@dataclass(frozen=True)
class Fit:
    """A bundle's engines for a machine: all three networks, of one flavour and precision.

    Attributes:
        flavour: of the library that runs them.
        version: of that library.
        files: network → its file.
    """

    flavour: Flavour
    version: str
    files: dict[str, EngineFile]

    def open(self, bundle: Bundle, graph: str) -> TensorRTEngine:
        """Load one of the networks.

        Raises:
            BackendError: the library cannot load the engine on this GPU.
        """
        return TensorRTEngine(bundle.folder / self.files[graph].file, self.flavour)


def find_engines(bundle: Bundle, capability: tuple[int, int], precision: str | None = None) -> Fit:
    """The bundle's engines for a GPU, of the first flavour that is installed and has all three.

    Args:
        bundle: an opened bundle.
        capability: (major, minor) of the GPU.
        precision: of the graphs that the engines were built from; None for the manifest's
            ``engine_precision``.

    Raises:
        BundleError: the bundle has no engines.
        BackendError: none that fit this GPU and the installed libraries.
    """
    require_engines(bundle)
    engines, here = bundle.manifest.engines, architecture(capability)
    precision = precision or bundle.manifest.engine_precision
    reasons = []
    for flavour in FLAVOURS.values():
        try:
            version = import_module(flavour.module).__version__
        except ModuleNotFoundError:
            reasons.append(f"{flavour.module} is not installed ({flavour.install})")
            continue
        except (ImportError, OSError) as error:  # it is there, and a library of its own is not
            reasons.append(f"{flavour.module} does not import ({error})")
            continue
        own = [each for each in engines if (each.flavour, each.precision) == (flavour.name, precision)]
        parts = {
            name: fitting([each for each in own if each.graph == name], here, version) for name in get_args(GraphName)
        }
        if missing := [name for name, part in parts.items() if part is None]:
            reasons.append(f"no {precision} engine of {', '.join(missing)} for {here} and {flavour.module} {version}")
            continue
        log.info("engines: %s %s, %s, for %s", flavour.name, version, precision, here)
        return Fit(flavour, version, {name: part for name, part in parts.items() if part})
    others = sorted({each.precision for each in engines} - {precision})
    told = f"; those of {', '.join(others)} are asked for with --precision" if others else ""
    raise BackendError(
        f"{bundle.folder}: no engines of this bundle fit this machine ({'; '.join(reasons)}{told}); "
        "build them here with pnseg build."
    )


def fitting(candidates: list[EngineFile], architecture: str, version: str) -> EngineFile | None:
    """The first engine for a GPU and a version of the library that built it."""
    return next((each for each in candidates if architecture in each.architectures and each.version == version), None)


def open_engines(bundle: Bundle, capability: tuple[int, int], precision: str | None = None) -> Engines:
    """Load the engines that :func:`find_engines` finds.

    Raises:
        BundleError, BackendError: as there, or an engine does not load.
    """
    fit = find_engines(bundle, capability, precision)
    return Engines(**{name: fit.open(bundle, name) for name in get_args(GraphName)})
