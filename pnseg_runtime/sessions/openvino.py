"""OpenVINO on the CPU: on processors with AVX-512, VNNI or bfloat16 often the fastest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import PROMPT_INPUTS, Bundle
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions import Opening, Runner
from pnseg_runtime.sessions.cache import drop_unsound, seal, writable
from pnseg_runtime.sessions.cpu import cpu, has_bfloat16, has_vnni, physical_cores

Arrays = dict[str, NDArray[Any]]
Shape = tuple[int, ...]
#: The inputs of a call, as those of one or more inferences, each with the rows of the outputs that it gives.
Inferences = Callable[[Arrays], Iterator[tuple[Arrays, slice]]]

#: Prompts are filled up to a multiple: OpenVINO prepares itself anew for every shape that it has not seen.
PROMPT_STEP = 8
#: px from which an image has a graph of its own, as windows have: compiled for one size, more layers are joined and the
#: features share memory (nano, 2560×2560 px: 1.0 GB for 2.1). For smaller ones compiling would cost more than it saves.
LARGE = 1_000_000


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
    path, digest = bundle.path(graph, stored), bundle.graph(graph, stored).sha256
    try:
        network = Network(path, opening, writable(bundle.folder) if opening.cache else None, digest)
        network.prepare(None if graph == "decoder" else (1, 3, *2 * [bundle.manifest.masking.window]))
    except Exception as error:
        raise BundleError(
            f"{path}: OpenVINO cannot read this network ({reason(error)}); choose --backend onnxruntime."
        ) from error
    return runner(network, INFERENCES[graph])


class Network:
    """A graph, compiled for what it is given: a window, any size, or a large image's own.

    Args:
        path: the graph.
        opening: how it is to run.
        folder: where compiled networks are kept, None for nowhere.
        digest: of the graph, by which they are found there.
    """

    def __init__(self, path: Path, opening: Opening, folder: Path | None, digest: str = "") -> None:
        self.path, self._digest = path, digest
        reduced = opening.precision == "bfloat16" or (opening.precision == "int8" and has_bfloat16())
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": opening.threads or physical_cores(),
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
        }
        self._leave_out = opening.leave_out
        self._folder = folder
        self._core = openvino.Core()
        self.outputs = [output.get_any_name() for output in self._read().outputs]
        self._kept: dict[Shape | None, openvino.InferRequest] = {}
        self._large: dict[Shape, openvino.InferRequest] = {}

    def prepare(self, shape: Shape | None) -> None:
        """Compile for images of a shape (B, 3, H, W), None for any, and keep that."""
        self._kept[shape] = self._compile(shape, self._folder)

    def request(self, inputs: Arrays) -> openvino.InferRequest:
        """What runs these inputs; of large images' sizes only the last one's is kept, as each takes its memory."""
        shape = inputs["image"].shape if "image" in inputs else None
        if shape in self._kept:
            return self._kept[shape]
        if shape is not None and prod(shape[2:]) >= LARGE:
            if shape not in self._large:
                self._large.clear()  # before there is another
                self._large[shape] = self._compile(shape, None)  # there may be a great many sizes for a disk
            return self._large[shape]
        if None not in self._kept:
            self.prepare(None)
        return self._kept[None]

    def _read(self) -> openvino.Model:
        # Read anew for each size: kept, it would hold its weights in memory.
        model = self._core.read_model(self.path)
        kept = [output for output in model.outputs if not output.names & self._leave_out]
        if len(kept) == len(model.outputs):
            return model
        return openvino.Model([output.get_node() for output in kept], model.get_parameters(), model.friendly_name)

    def _compile(self, shape: Shape | None, folder: Path | None) -> openvino.InferRequest:
        model = self._read()
        if shape is not None:
            model.reshape({"image": list(shape)})
        if folder is None:
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        parts = (openvino.__version__, self._digest, *sorted(self._leave_out), shape, self._settings, cpu())
        place = folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.openvino"
        drop_unsound(place)  # OpenVINO takes whatever lies there
        compiled = self._core.compile_model(model, "CPU", self._settings | {"CACHE_DIR": os.fspath(place)})
        seal(place)
        return compiled.create_infer_request()


def runner(network: Network, inferences: Inferences) -> Runner:
    """A network as a function of arrays, whose outputs lie in memory that is used again."""
    buffers = Buffers()

    def run(inputs: Arrays) -> Arrays:
        outputs: Arrays = {}
        rows = len(inputs["image_index"] if "image_index" in inputs else inputs["image"])
        for part, own in inferences(inputs):
            try:
                request = network.request(part)
                request.infer(part, share_inputs=True, share_outputs=True)
                found = [request.get_output_tensor(index).data for index in range(len(network.outputs))]
            except Exception as error:
                raise BackendError(f"{network.path}: OpenVINO failed to run this network ({reason(error)}).") from error
            for name, array in zip(network.outputs, found, strict=True):
                if name not in outputs:
                    outputs[name] = buffers.take((rows, *array.shape[1:]), array.dtype)
                np.copyto(outputs[name][own], array[: own.stop - own.start])
        return outputs

    return run


def whole(inputs: Arrays) -> Iterator[tuple[Arrays, slice]]:
    """As they are."""
    yield inputs, slice(0, len(inputs["image"]))


def one_by_one(inputs: Arrays) -> Iterator[tuple[Arrays, slice]]:
    """An encoder's windows singly: compiled for one, it is faster than for any number."""
    for row, image in enumerate(inputs["image"]):
        yield {"image": image[None]}, slice(row, row + 1)


def filled_up(inputs: Arrays) -> Iterator[tuple[Arrays, slice]]:
    """A decoder's inputs with the last prompt repeated up to :data:`PROMPT_STEP`."""
    count = len(inputs["image_index"])
    if extra := -count % PROMPT_STEP:
        last = {name: np.repeat(inputs[name][-1:], extra, axis=0) for name in PROMPT_INPUTS}
        inputs = {**inputs, **{name: np.concatenate([inputs[name], rows]) for name, rows in last.items()}}
    yield inputs, slice(0, count)


#: How each network is called.
INFERENCES: dict[str, Inferences] = {"prompter": whole, "encoder": one_by_one, "decoder": filled_up}


def reason(error: Exception) -> str:
    """What an exception says, behind the lines that only name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from")]
    return (telling or lines or [type(error).__name__])[0][:300].rstrip(".")
