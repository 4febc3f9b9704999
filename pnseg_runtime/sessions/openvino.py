"""OpenVINO on the CPU: on processors with AVX-512, VNNI or bfloat16 often the fastest."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError, BundleError
from pnseg_runtime.sessions import Opening, Runner
from pnseg_runtime.sessions.cache import cpu, writable
from pnseg_runtime.sessions.onnxruntime import physical_cores

#: Prompts are filled up to a multiple: OpenVINO prepares itself anew for every shape that it has not seen.
PROMPT_STEP = 8
#: px of an image from which a graph is compiled for it: compiled for every size, OpenVINO shares less memory among
#: the features, so that a large image takes twice as much (nano, 2560×2560 px: 2.1 GB for 1.0).
OWN_SIZE = 1024 * 1024


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


def has_vnni() -> bool:
    """Whether the CPU sums up 8-bit products in 32 bits."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu().split()))


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 by itself."""
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu().split()))


def open_network(bundle: Bundle, graph: str, opening: Opening) -> Runner:
    """One of a bundle's networks.

    In bfloat16 it is made of the float32 graph. The int8 graph's remaining layers compute in bfloat16
    where the CPU does.

    Raises:
        BundleError: the bundle has no such graph, or one that OpenVINO cannot read.
    """
    precision = "float32" if opening.precision == "bfloat16" else opening.precision
    path = bundle.path(graph, precision)
    core = openvino.Core()
    if opening.cache and (folder := writable(bundle.folder)) is not None:
        core.set_property({"CACHE_DIR": os.fspath(folder)})
    reduced = opening.precision == "bfloat16" or (opening.precision == "int8" and has_bfloat16())
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": opening.threads or physical_cores(),
        "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
    }
    try:
        model = core.read_model(path)
        if opening.leave_out & {name for output in model.outputs for name in output.names}:
            kept = [output for output in model.outputs if not output.names & opening.leave_out]
            model = openvino.Model([output.get_node() for output in kept], model.get_parameters(), model.friendly_name)
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:
        raise BundleError(
            f"{path}: OpenVINO cannot read this network ({reason(error)}); choose --backend onnxruntime."
        ) from error
    return runner(compiled, path, Sized(model, settings))


class Sized:
    """A network compiled for the size of one image; of the last one alone, since each takes its features' memory.

    Args:
        model: with any size of its image.
        settings: of the compilation. Nothing is kept on the disk: there may be a great many sizes.
    """

    def __init__(self, model: openvino.Model, settings: dict[str, Any]) -> None:
        self._model, self._settings = model, settings
        self._core = openvino.Core()
        self._shape: tuple[int, ...] = ()
        self._request: openvino.InferRequest | None = None

    def request(self, image: NDArray[Any]) -> openvino.InferRequest:
        """What runs images (B, 3, H, W) of this shape."""
        if image.shape != self._shape:
            self._shape, self._request = (), None  # frees the last one's memory before there is another
            model = self._model.clone()
            model.reshape({"image": list(image.shape)})
            self._request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
            self._shape = image.shape
        return self._request


def runner(compiled: openvino.CompiledModel, path: Path, sized: Sized | None = None) -> Runner:
    """A compiled network as a function of arrays, whose outputs lie in memory that is used again.

    Args:
        compiled: the network.
        path: named in errors.
        sized: runs images of :data:`OWN_SIZE` px or more.
    """
    usual = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]
    buffers = Buffers()

    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        count, inputs = filled_up(inputs)
        try:
            large = "image" in inputs and prod(inputs["image"].shape[2:]) >= OWN_SIZE
            request = sized.request(inputs["image"]) if sized and large else usual
            request.infer(inputs, share_inputs=True, share_outputs=True)
            found = [request.get_output_tensor(index).data for index in range(len(names))]
        except Exception as error:
            raise BackendError(f"{path}: OpenVINO failed to run this network ({reason(error)}).") from error
        outputs = {}
        for name, array in zip(names, found, strict=True):
            own = array[:count]  # a decoder's outputs have a row a prompt
            outputs[name] = buffers.take(own.shape, own.dtype)
            np.copyto(outputs[name], own)
        return outputs

    return run


def filled_up(inputs: dict[str, NDArray[Any]]) -> tuple[int | None, dict[str, NDArray[Any]]]:
    """A decoder's inputs with the last prompt repeated up to :data:`PROMPT_STEP`, and how many were its own."""
    if "image_index" not in inputs:
        return None, inputs
    count = len(inputs["image_index"])
    if not (extra := -count % PROMPT_STEP):
        return count, inputs
    prompts = ("point_coords", "point_labels", "image_index")
    more = {name: np.concatenate([inputs[name], np.repeat(inputs[name][-1:], extra, axis=0)]) for name in prompts}
    return count, {**inputs, **more}


def reason(error: Exception) -> str:
    """What an exception says, behind the lines that only name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from")]
    return (telling or lines or [type(error).__name__])[0][:300].rstrip(".")
