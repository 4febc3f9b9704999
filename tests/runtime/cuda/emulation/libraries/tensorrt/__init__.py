"""A stand-in for TensorRT on the stand-in driver: an "engine" names an ONNX graph, which ONNX Runtime runs.

It holds its user to what the real one asks for: a profile before shapes, shapes within the profile, an address for
every tensor, memory where the user gives it, and work that is done when the stream gets to it. A captured graph gives
junk once anything of its context has been set again. Put on ``PYTHONPATH``, child processes find it too.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from enum import Enum, IntEnum
from pathlib import Path

import numpy as np

from pnseg_runtime.sessions.onnxruntime import open_session
from tests.runtime.cuda.host_engines import array_at, one_by_one, real_prompts

__version__ = "11.4.0"
HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class TensorIOMode(Enum):
    INPUT = 0
    OUTPUT = 1


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


def nptype(kind):
    return kind


class RuntimeConfig:
    strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class Runtime:
    logger = None

    def __init__(self, logger):
        logger.log(ILogger.Severity.INFO, "a runtime")
        if Runtime.logger not in {None, logger}:
            print(
                "the stand-in was given another logger, which the library would have left to memory that is free",
                file=sys.stderr,
            )
            raise TypeError("another logger")
        Runtime.logger = logger
        if "STAND_IN_NO_RUNTIME" in os.environ:  # as the real one where CUDA does not start for it
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, content):
        return None if content == b"damaged" else Engine(json.loads(content))


class Engine:
    """What is in the file: the graph, the names of its axes, and profiles."""

    def __init__(self, told):
        network = open_session(Path(told["graph"]), threads=2)
        decodes = "image_index" in told["inputs"]
        network = one_by_one(network, "image_index" if decodes else "image")
        self.network = real_prompts(network) if decodes else network
        self.inputs, self.outputs, self.profiles = told["inputs"], told["outputs"], told["profiles"]
        self.spacing = told["spacing"]
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index):
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return dtype_of(name)

    def get_tensor_profile_shape(self, name, profile):
        shapes = self.profiles[profile][name]
        return shapes["smallest"], shapes["tuned"], shapes["largest"]

    def create_runtime_config(self):
        return RuntimeConfig()

    def get_device_memory_size_for_profile_v2(self, profile):
        return sum(int(np.prod(shapes["largest"])) for shapes in self.profiles[profile].values())

    def create_execution_context(self, config):
        return Context(self, config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED)


class Context:
    def __init__(self, engine, given_memory):
        self._engine = engine
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._profile = None
        self._given_memory, self._memory, self._needed = given_memory, (0, 0), 0
        self._changes = 0
        self._shapes, self._addresses = {}, {}
        self._calls = []  # graphs call them again

    def set_optimization_profile_async(self, index, stream):
        self._changes += 1
        self._profile = self._engine.profiles[index]
        self._needed = self._engine.get_device_memory_size_for_profile_v2(index)
        return True

    def set_device_memory(self, address, size):
        self._changes += 1
        self._memory = (address, size)

    def set_input_shape(self, name, shape):
        self._changes += 1
        if self._profile is None:
            return False
        limits = self._profile[name]
        fits = len(shape) == len(limits["smallest"]) and all(
            a <= b <= c for a, b, c in zip(limits["smallest"], shape, limits["largest"], strict=True)
        )
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def infer_shapes(self):
        return [name for name in self._engine.inputs if name not in self._shapes]

    def get_tensor_shape(self, name):
        axes = {}
        for given, shape in self._shapes.items():
            axes |= dict(zip(self._engine.inputs[given], shape, strict=True))
        if "height" in axes:
            axes["anchors"] = axes["height"] // self._engine.spacing * (axes["width"] // self._engine.spacing)
        return tuple(axes[side] if isinstance(side, str) else side for side in self._engine.outputs[name])

    def set_tensor_address(self, name, address):
        self._changes += 1
        self._addresses[name] = address
        return address > 0

    def execute_async_v3(self, stream):
        engine, shapes, places = self._engine, dict(self._shapes), dict(self._addresses)
        if set(places) != set(engine.inputs) | set(engine.outputs):
            return False
        memory, size = self._memory
        if self._given_memory and (not memory or memory % 256 or size < self._needed):
            print("the stand-in's engine has not been given the memory that it needs", file=sys.stderr)
            return False
        captured, changes = self._is_captured(stream), self._changes
        made = {name: self.get_tensor_shape(name) for name in engine.outputs}

        def work(_):
            try:
                if captured and changes != self._changes:
                    raise RuntimeError("a graph whose context has been changed since")
                if self._given_memory:  # two that are at work in it at once, or what lies beside it, would show
                    array_at(memory, (size,), np.dtype(np.uint8))[...] = id(self) % 251
                given = {name: array_at(places[name], shapes[name], dtype_of(name)).copy() for name in engine.inputs}
                with Path(os.environ.get("STAND_IN_ENGINE_LOG", os.devnull)).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(shapes) + "\n")
                results = engine.network(given)
                assert not self._given_memory or (array_at(memory, (size,), np.dtype(np.uint8)) == id(self) % 251).all()
                for name, values in results.items():
                    array_at(places[name], made[name], dtype_of(name))[...] = values
            except Exception as error:  # the results are then not those that are asked for
                print(f"the stand-in's engine failed: {error!r}", file=sys.stderr)
                for name, shape in made.items():
                    array_at(places[name], shape, dtype_of(name))[...] = 0

        self._calls.append(HostFunction(work))
        return self._driver.cuLaunchHostFunc(ctypes.c_void_p(stream), self._calls[-1], None) == 0

    def _is_captured(self, stream):
        status = ctypes.c_int()
        assert self._driver.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status)) == 0
        return bool(status.value)


def dtype_of(name):
    return np.dtype(np.int64 if name == "image_index" else np.float32)
