"""OpenVINO on the CPU: on processors with AVX-512, VNNI or bfloat16 often the fastest."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import IO, Any

import numpy as np
import openvino
from numpy.typing import NDArray

from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import PROMPT_INPUTS, Bundle
from pnseg_runtime.errors import BackendError, BundleError, one_line
from pnseg_runtime.sessions import Opening, Runner
from pnseg_runtime.sessions.cache import cached, writable
from pnseg_runtime.sessions.cpu import has_bfloat16, has_vnni, physical_cores

Arrays = dict[str, NDArray[Any]]
Shape = tuple[int, ...]
#: An inference: its inputs, and the rows of the call's outputs that it gives.
Part = tuple[Arrays, slice]
#: The inputs of a call and how many inferences may run at the same time → inferences that do, group by group, each
#: with how many requests its network is compiled for.
Inferences = Callable[[Arrays, int], Iterator[tuple[int, list[Part]]]]

#: Prompts are filled up to a multiple: OpenVINO prepares itself anew for every shape that it has not seen.
PROMPT_STEP = 8
#: px from which an image has a graph of its own, as windows have: compiled for one size, more layers are joined and the
#: features share memory (nano, 2560×2560 px: 1.0 GB for 2.1). For smaller ones compiling would cost more than it saves.
LARGE = 1_000_000
#: Windows that are encoded side by side at most, each on its share of the threads: two threads that work on two windows
#: need not wait for each other at every layer.
MOST_SIDE_BY_SIDE = 4
#: Prompts of each inference of a decoder that run side by side; what they do not fill up is decoded on all threads.
PROMPTS_SIDE_BY_SIDE = 16
#: Bytes from which a decoder gains by that (SAM's has 14 MB, nano's 3).
WIDE_DECODER = 8_000_000
_PAGE_OUT = 21  # MADV_PAGEOUT: what is not changed is read from the file again when it is looked at
_MOMENT = 0.02  # seconds


def problem(opening: Opening) -> str | None:
    """Why it cannot run here in the precision that is asked for, None if it can."""
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        return 'OpenVINO finds no CPU plugin; run: pip install --force-reinstall "pnseg[openvino]"'
    if opening.precision == "bfloat16" and not has_bfloat16():
        return "this CPU has no bfloat16 arithmetic (AVX512_BF16 or AMX), so it would only be emulated; choose float32."
    if opening.precision == "int8" and not has_vnni():
        return "this CPU has no 8-bit sums (VNNI or AMX), without which masks change; choose float32, or onnxruntime."
    return None


def open_network(bundle: Bundle, graph: str, opening: Opening) -> Runner:
    """One of a bundle's networks.

    In bfloat16 it is made of the float32 graph. The int8 graph's remaining layers compute in bfloat16
    where the CPU does.

    Raises:
        BundleError: the bundle has no such graph, or one that OpenVINO cannot read.
    """
    stored = "float32" if opening.precision == "bfloat16" else opening.precision
    path, entry = bundle.path(graph, stored), bundle.graph(graph, stored)
    narrow = graph == "decoder" and entry.bytes < WIDE_DECODER
    try:
        folder = bundle.folder if opening.cache else None
        network = Network(path, opening, folder, entry.sha256, 1 if narrow else MOST_SIDE_BY_SIDE)
        if graph == "decoder":
            for requests in {1, network.side_by_side}:  # few prompts will come, and many
                network.prepare(None, requests)
        else:
            network.prepare((1, 3, *2 * [bundle.manifest.masking.window]))
    except Exception as error:
        raise BundleError(
            f"{path}: OpenVINO cannot read this network ({reason(error)}); choose --backend onnxruntime."
        ) from error
    return runner(network, INFERENCES[graph])


@dataclass(frozen=True)
class Compiled:
    """A network for inputs of one size, or of any.

    Attributes:
        requests: each runs the network on inputs of its own, at the same time as the others.
        outputs: names.
        weights: the file that they lie in, None where OpenVINO has them to itself.
    """

    requests: list[openvino.InferRequest]
    outputs: list[str]
    weights: openvino.Tensor | None

    @classmethod
    def of(cls, network: openvino.CompiledModel, weights: openvino.Tensor | None = None, requests: int = 1) -> Compiled:
        """A network, ready for some inferences at the same time."""
        outputs = [output.get_any_name() for output in network.outputs]
        return cls([network.create_infer_request() for _ in range(requests)], outputs, weights)

    def run(self, parts: Iterable[Arrays]) -> list[Arrays]:
        """The outputs of as many inputs as there are requests, or fewer, in memory that the next call overwrites."""
        with ExitStack() as running:  # when one fails, it waits for the others
            used = []
            for request, part in zip(self.requests, parts, strict=False):
                request.start_async(part, share_inputs=True)
                running.callback(request.wait)
                used.append(request)
        return [{name: request.get_tensor(name).data for name in self.outputs} for request in used]


class _Into(BytesIO):
    """A file as OpenVINO takes it to write a network to, which is a BytesIO; that would hold all weights once more.

    Attributes:
        error: why the file is not whole, None if it is; OpenVINO writes on and says nothing, or not what it was.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        with self._noting():
            return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._noting():  # it writes what waits to be written
            return self._file.seek(offset, whence)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise


class Network:
    """A graph, compiled for what it is given: one window, several side by side, any size, or a large image's own.

    Attributes:
        path: the graph.
        side_by_side: inferences that it runs at the same time at most.

    Args:
        path: the graph.
        opening: how it is to run.
        folder: the bundle's, beside which compiled networks are kept; None if they are not.
        digest: of the graph, by which they are found there.
        most_side_by_side: inferences at the same time; there are no more than threads.
    """

    def __init__(
        self,
        path: Path,
        opening: Opening,
        folder: Path | None,
        digest: str = "",
        most_side_by_side: int = MOST_SIDE_BY_SIDE,
    ) -> None:
        self.path, self._digest = path, digest
        reduced = opening.precision == "bfloat16" or (opening.precision == "int8" and has_bfloat16())
        threads = opening.threads or physical_cores()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
        }
        self.side_by_side = min(threads, most_side_by_side)
        self._leave_out = opening.leave_out
        self._folder = folder
        self._core = openvino.Core()
        self._expected: set[Shape | None] = {None}
        self._kept: dict[tuple[Shape | None, int], Compiled] = {}
        self._large: dict[Shape, Compiled] = {}

    def prepare(self, shape: Shape | None, requests: int = 1) -> None:
        """Compile for images of a shape (B, 3, H, W), None for any, that will come again and again."""
        self._expected.add(shape)
        self._keep(shape, requests)

    def compiled(self, inputs: Arrays, requests: int) -> Compiled:
        """What runs such inputs.

        Of large images' sizes only the last one's is kept, as each takes its memory.

        Args:
            inputs: of one inference.
            requests: such inferences at the same time.
        """
        shape = inputs["image"].shape if "image" in inputs else None
        if requests > 1:
            if (shape, requests) not in self._kept:
                if shape is not None:  # who has images of many windows seldom has one of a single window
                    self._kept.pop((shape, 1), None)
                self._keep(shape, requests)
            return self._kept[shape, requests]
        if shape is not None and shape not in self._expected and prod(shape[2:]) >= LARGE:
            if shape not in self._large:
                self._large.clear()  # before there is another
                self._kept.clear()  # its weights once more; a smaller image has it read from the cache again
                self._large[shape] = self._own(shape)
            return self._large[shape]
        shape = shape if shape in self._expected else None
        if (shape, 1) not in self._kept:
            self._keep(shape, 1)
        return self._kept[shape, 1]

    def _keep(self, shape: Shape | None, streams: int) -> None:
        """With an entry in the cache, by which it opens the next time."""
        settings = {**self._settings, "NUM_STREAMS": streams}
        parts = ("openvino", openvino.__version__, self._digest, *sorted(self._leave_out), repr(shape), repr(settings))

        def make(scratch: Path) -> None:
            with scratch.open("wb") as file:
                self._export(shape, settings, file)

        kept = cached(self._folder, parts, f".{self.path.stem}.openvino", make) if self._folder else None
        if kept is None:
            self._kept[shape, streams] = Compiled.of(self._compile(shape, settings), None, streams)
            return
        with kept.open("rb") as file:
            self._kept[shape, streams] = Compiled.of(*self._import(file, settings), streams)

    def _own(self, shape: Shape) -> Compiled:
        """A large image's, through a file that nobody finds again: there may be a great many sizes for a disk."""
        settings = {**self._settings, "NUM_STREAMS": 1}
        with suppress(OSError), TemporaryFile(dir=writable(self._folder) if self._folder else None) as file:
            self._export(shape, settings, file)
            return Compiled.of(*self._import(file, settings))
        return Compiled.of(self._compile(shape, settings))

    def _read(self, shape: Shape | None) -> openvino.Model:
        # Read anew for each size: kept, it would hold its weights in memory.
        model = self._core.read_model(self.path)
        kept = [output for output in model.outputs if not output.names & self._leave_out]
        if len(kept) < len(model.outputs):
            model = openvino.Model([output.get_node() for output in kept], model.get_parameters(), model.friendly_name)
        if shape is not None:
            model.reshape({"image": list(shape)})
        return model

    def _compile(self, shape: Shape | None, settings: dict[str, Any]) -> openvino.CompiledModel:
        return self._core.compile_model(self._read(shape), "CPU", settings)

    def _export(self, shape: Shape | None, settings: dict[str, Any], file: IO[bytes]) -> None:
        """Write a compiled network: one that comes from a file has its weights once in memory, not twice.

        Raises:
            OSError: it does not fit on the disk, say.
        """
        network, into = self._compile(shape, settings), _Into(file)
        try:
            network.export_model(into)
        finally:
            if into.error is not None:
                raise into.error
        file.flush()

    def _import(self, file: IO[bytes], settings: dict[str, Any]) -> tuple[openvino.CompiledModel, openvino.Tensor]:
        """A compiled network and the file's bytes, which it needs for as long as it lives."""
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # OpenVINO takes no memory that is read-only
        weights = openvino.Tensor(np.frombuffer(pages, np.uint8), shared_memory=True)
        with giving_back(pages):  # most weights lie in another order elsewhere then
            return self._core.import_model(weights, "CPU", settings), weights


@contextmanager
def giving_back(pages: mmap.mmap) -> Iterator[None]:
    """Let go of a file's pages in memory again and again while it is read, and when it has been."""

    def give_back() -> None:
        with suppress(OSError, AttributeError):  # a kernel before 5.4, a system without this advice
            pages.madvise(_PAGE_OUT)

    def keep_giving() -> None:
        while not read.wait(_MOMENT):
            give_back()

    read = Event()
    meanwhile = Thread(target=keep_giving, name="pnseg-pages", daemon=True)
    meanwhile.start()
    try:
        yield
    finally:
        read.set()
        meanwhile.join()
        give_back()


def runner(network: Network, inferences: Inferences) -> Runner:
    """A network as a function of arrays, whose outputs lie in memory that is used again."""
    buffers = Buffers()

    def run(inputs: Arrays) -> Arrays:
        outputs: Arrays = {}
        rows = len(inputs["image_index"] if "image_index" in inputs else inputs["image"])
        try:
            for requests, parts in inferences(inputs, network.side_by_side):
                found = network.compiled(parts[0][0], requests).run(part for part, _ in parts)
                for (_, own), arrays in zip(parts, found, strict=True):
                    for name, array in arrays.items():
                        if name not in outputs:
                            outputs[name] = buffers.take((rows, *array.shape[1:]), array.dtype)
                        np.copyto(outputs[name][own], array[: own.stop - own.start])
        except Exception as error:
            raise BackendError(f"{network.path}: OpenVINO failed to run this network ({reason(error)}).") from error
        return outputs

    return run


def whole(inputs: Arrays, _: int) -> Iterator[tuple[int, list[Part]]]:
    """As they are."""
    yield 1, [(inputs, slice(0, len(inputs["image"])))]


def one_by_one(inputs: Arrays, side_by_side: int) -> Iterator[tuple[int, list[Part]]]:
    """An encoder's windows singly: compiled for one, it is faster than for any number, and some run side by side."""
    parts = [({"image": image[None]}, slice(row, row + 1)) for row, image in enumerate(inputs["image"])]
    requests = side_by_side if len(parts) >= side_by_side else 1
    for first in range(0, len(parts), requests):
        yield requests, parts[first : first + requests]


def in_groups(inputs: Arrays, side_by_side: int) -> Iterator[tuple[int, list[Part]]]:
    """A decoder's prompts :data:`PROMPTS_SIDE_BY_SIDE` an inference; the rest together, filled up."""
    count, size = len(inputs["image_index"]), PROMPTS_SIDE_BY_SIDE
    grouped = count - count % (size * side_by_side) if side_by_side > 1 else 0
    for first in range(0, grouped, size * side_by_side):
        rows = [slice(start, start + size) for start in range(first, first + size * side_by_side, size)]
        yield side_by_side, [(prompts(inputs, some), some) for some in rows]
    if grouped < count:
        rest = slice(grouped, count)
        yield 1, [(filled_up(prompts(inputs, rest)), rest)]


def prompts(inputs: Arrays, which: slice) -> Arrays:
    """A decoder's inputs with some of the prompts."""
    return {**inputs, **{name: inputs[name][which] for name in PROMPT_INPUTS}}


def filled_up(inputs: Arrays) -> Arrays:
    """A decoder's inputs with the last prompt repeated up to :data:`PROMPT_STEP`."""
    if extra := -len(inputs["image_index"]) % PROMPT_STEP:
        last = {name: np.repeat(inputs[name][-1:], extra, axis=0) for name in PROMPT_INPUTS}
        return {**inputs, **{name: np.concatenate([inputs[name], rows]) for name, rows in last.items()}}
    return inputs


#: How each network is called.
INFERENCES: dict[str, Inferences] = {"prompter": whole, "encoder": one_by_one, "decoder": in_groups}


def reason(error: Exception) -> str:
    """What an exception says, behind the lines that only name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from")]
    return telling[0][:300].rstrip(".") if telling else one_line(error)
