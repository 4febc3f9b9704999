"""Networks on the stand-in GPU: functions of arrays that run when their stream gets to them, in place of TensorRT."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.cuda.engines import Engines, Profile, Scratch, Shape
from pnseg_runtime.sessions import Opening, Runner, Sessions
from pnseg_runtime.sessions.onnxruntime import open_network
from tests.fakes import CLASSES, SPACING, FakeNetworks

Types = dict[str, np.dtype[Any]]
HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class HostEngine:
    """A network as a function of arrays. ``shapes``: the inputs' shapes → the outputs'."""

    def __init__(
        self, network: Runner, inputs: Types, outputs: Types, shapes: Callable[[Mapping[str, Shape]], dict[str, Shape]]
    ) -> None:
        self.network, self.inputs, self.outputs, self.shapes = network, inputs, outputs, shapes
        self.failures: list[Exception] = []
        self.batches: list[int] = []
        self.profiles: list[Profile] = []

    def execution(self, stream: int, scratch: Scratch, captured: bool) -> HostExecution:
        return HostExecution(self, stream)


class HostExecution:
    def __init__(self, engine: HostEngine, stream: int) -> None:
        self._engine, self._stream = engine, stream
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._callbacks: list[Any] = []  # graphs call them again
        self._given: dict[str, Shape] = {}
        self._made: dict[str, Shape] = {}

    def prepare(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        self._given, self._made = dict(shapes), self._engine.shapes(shapes)
        return self._made

    def run(self, addresses: Mapping[str, int]) -> None:
        engine, given, made, places = self._engine, self._given, self._made, dict(addresses)
        assert set(places) == set(given) | set(made)

        def work(_: Any) -> None:
            try:
                arrays = {
                    name: array_at(places[name], shape, engine.inputs[name]).copy() for name, shape in given.items()
                }
                engine.batches.append(len(next(iter(arrays.values()))))
                for name, values in engine.network(arrays).items():
                    if name in made:
                        array_at(places[name], made[name], engine.outputs[name])[...] = values
            except Exception as error:
                engine.failures.append(error)

        self._callbacks.append(HostFunction(work))
        code = self._driver.cuLaunchHostFunc(ctypes.c_void_p(self._stream), self._callbacks[-1], None)
        assert code == 0, code


def array_at(address: int, shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


def real_prompts(network: Runner) -> Runner:
    """A decoder that is asked about the prompts alone; the places behind them get masks that must not be used."""

    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        real = inputs["point_labels"][:, 0] == 1
        own = {name: inputs[name][real] for name in ("point_coords", "point_labels", "image_index")}
        found = network({**inputs, **own})
        outputs = {}
        for name, values in found.items():
            outputs[name] = np.full((len(real), *values.shape[1:]), 9, values.dtype)
            outputs[name][real] = values
        return outputs

    return run


def fake_engines(bundle: Bundle) -> tuple[Engines, FakeNetworks]:
    """Engines of :class:`tests.fakes.FakeNetworks`."""
    networks = FakeNetworks(bundle)
    float32, int64, window = np.dtype(np.float32), np.dtype(np.int64), bundle.manifest.masking.window

    def prompter_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        count, _, height, width = shapes["image"]
        anchors = height // SPACING * (width // SPACING)
        return {
            "points": (count, anchors, 2),
            "class_logits": (count, anchors, len(CLASSES) + 1),
            "region_logits": (count, 1, height, width),
        }

    def decoder_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        places = shapes["image_index"][0]
        return {"mask_logits": (places, networks.mask_size, networks.mask_size), "iou": (places,)}

    prompter_types = dict.fromkeys(("points", "class_logits", "region_logits"), float32)
    prompt_types = {"point_coords": float32, "point_labels": float32, "image_index": int64}
    engines = Engines(
        HostEngine(networks.prompter, {"image": float32}, prompter_types, prompter_shapes),
        HostEngine(
            networks.encoder,
            {"image": float32},
            {"embedding": int64},
            lambda shapes: {"embedding": (shapes["image"][0], 3, window, window)},
        ),
        HostEngine(
            real_prompts(networks.decoder),
            {"embedding": int64, **prompt_types},
            {"mask_logits": float32, "iou": float32},
            decoder_shapes,
        ),
    )
    return engines, networks


def one_by_one(network: Runner, per_item: str) -> Runner:
    """A network that sees its items one at a time, so that none depends on the batch it is in, in any bit."""

    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        parts = []
        for item in range(len(inputs[per_item])):
            if "image_index" in inputs:
                window = int(inputs["image_index"][item])
                prompt = ("point_coords", "point_labels", "image_index")
                own = {n: v[item : item + 1] if n in prompt else v[window : window + 1] for n, v in inputs.items()}
                own["image_index"] = np.zeros_like(own["image_index"])
            else:
                own = {name: values[item : item + 1] for name, values in inputs.items()}
            parts.append(network(own))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run


def onnx_engines(bundle: Bundle) -> tuple[Engines, Sessions]:
    """Engines that run a bundle's graphs with ONNX Runtime, and the same networks as sessions of the CPU."""
    opening = Opening(threads=2, cache=False)
    items = {"prompter": "image", "encoder": "image", "decoder": "image_index"}
    runs = {name: one_by_one(open_network(bundle, name, opening), item) for name, item in items.items()}
    spacing = bundle.manifest.prompting.anchor_spacing

    def engine(name: str) -> HostEngine:
        graph = bundle.manifest.graphs[name]

        def shapes(given: Mapping[str, Shape]) -> dict[str, Shape]:
            axes: dict[str, int] = {}
            for tensor, shape in given.items():
                for axis, side in zip(graph.inputs[tensor], shape, strict=True):
                    if isinstance(axis, str):
                        assert axes.setdefault(axis, side) == side
                    else:
                        assert axis == side
            if name == "prompter":
                axes["anchors"] = axes["height"] // spacing * (axes["width"] // spacing)
            return {
                tensor: tuple(axes[axis] if isinstance(axis, str) else axis for axis in sides)
                for tensor, sides in graph.outputs.items()
            }

        types = {tensor: np.dtype(np.float32) for tensor in (*graph.inputs, *graph.outputs)}
        types["image_index"] = np.dtype(np.int64)
        network = real_prompts(runs[name]) if name == "decoder" else runs[name]
        return HostEngine(
            network,
            {tensor: types[tensor] for tensor in graph.inputs},
            {tensor: types[tensor] for tensor in graph.outputs},
            shapes,
        )

    return Engines(engine("prompter"), engine("encoder"), engine("decoder")), Sessions(**runs)
