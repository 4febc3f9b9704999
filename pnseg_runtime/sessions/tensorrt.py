"""A bundle's TensorRT engines as plain networks: arrays of the host in, arrays of the host out.

What is around the networks runs on the CPU, as with every other backend, so that slides, test-time augmentation and
services have the engines too. With everything on the GPU: :mod:`pnseg_runtime.cuda`. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from math import prod
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import PROMPT_INPUTS, Bundle
from pnseg_runtime.cuda.driver import Device, at_last
from pnseg_runtime.cuda.engines import Engine, Profile, Shape, largest_shapes
from pnseg_runtime.cuda.fitting import find_engines
from pnseg_runtime.cuda.memory import Memory
from pnseg_runtime.cuda.nvidia import find_driver
from pnseg_runtime.cuda.plan import FEWEST_PROMPTS, bucket
from pnseg_runtime.limits import Limits
from pnseg_runtime.sessions import BACKENDS, Opening

#: The GPU in use: the three networks of a bundle share its context and let go of it together.
_DEVICES: WeakValueDictionary[int, Device] = WeakValueDictionary()
_OPENING = Lock()  # threads that open bundles at the same time share it too


def problem(opening: Opening) -> str | None:
    """Why engines cannot run on this machine at all; None if they may. Without a driver nothing else is looked for."""
    if (reason := find_driver().problem) is not None:
        return f"{reason}; pnseg doctor says more."
    if find_spec("pycuda") is None:
        return f"PyCUDA, which runs engines, is not installed; run: {BACKENDS[opening.backend].install}"
    return None


def open_network(bundle: Bundle, graph: str, opening: Opening) -> Network:
    """One of a bundle's networks.

    Raises:
        BundleError: the bundle has no engines.
        BackendError: none that fit this GPU and the installed libraries, or they do not load.
    """
    with _OPENING:
        device = _DEVICES.get(0)
        if device is None:
            device = _DEVICES[0] = Device(kernels=False)
    with device.current():
        fit = find_engines(bundle, device.capability, opening.precision)
        return Network(device, fit.open(bundle, graph))


def limits(networks: Mapping[str, Network]) -> Limits:
    """What a bundle's networks take at most."""
    return Limits.of({name: largest_shapes(network.profiles) for name, network in networks.items()})


class Network:
    """An engine as a function of arrays; for one thread at a time.

    Its inputs are written to page-locked memory, filled up to one of few sizes, copied, run and copied back on one
    stream. Memory is kept; the outputs lie in memory that is used again.
    """

    def __init__(self, device: Device, engine: Engine) -> None:
        self._device, self._engine = device, engine
        self._stream = device.stream()
        self._memory = Memory(device, partial(device.synchronise, self._stream))
        scratch = partial(self._memory.at, "scratch", exactly=True)
        self._execution = engine.execution(self._stream.handle, scratch, captured=False)
        self._buffers = Buffers()

    @property
    def profiles(self) -> list[Profile]:
        """Of the engine."""
        return self._engine.profiles

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run it.

        Raises:
            BackendError: the GPU fails, or the engine does not take inputs as large as these.
        """
        given = {name: inputs[name] for name in self._engine.inputs}
        shapes = filled_shapes({name: array.shape for name, array in given.items()}, self._engine.profiles)
        # Whatever happened, nothing of it runs on.
        with self._device.current(), at_last(partial(self._device.synchronise, self._stream)):
            return self._run(given, shapes)

    def __del__(self) -> None:
        with suppress(Exception), self._device.current():  # where its memory and streams can be given back
            del self._execution, self._engine, self._memory, self._stream

    def _run(self, given: Mapping[str, NDArray[Any]], shapes: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
        engine = self._engine
        made = self._execution.prepare(shapes)
        addresses = {name: self._send(name, array, shapes[name]) for name, array in given.items()}
        sizes = {name: prod(shape) * engine.outputs[name].itemsize for name, shape in made.items()}
        addresses |= {name: self._memory.at(name, size) for name, size in sizes.items()}
        self._execution.run(addresses)
        staged = {name: self._memory.staging(f"from.{name}", size) for name, size in sizes.items()}
        for name, staging in staged.items():
            if staging.nbytes:
                self._device.download(self._stream, staging, addresses[name])
        self._device.synchronise(self._stream)
        first = "image_index" if "image_index" in given else next(iter(given))
        return {
            name: self._own(staging.view(engine.outputs[name]).reshape(made[name]), len(given[first]))
            for name, staging in staged.items()
        }

    def _send(self, name: str, values: NDArray[Any], shape: Shape) -> int:
        """Put an input on its way to the GPU; rows behind its own repeat the last one."""
        kind = self._engine.inputs[name]
        nbytes = prod(shape) * kind.itemsize
        staging, address = self._memory.staging(f"to.{name}", nbytes), self._memory.at(name, nbytes)
        rows = staging.view(kind).reshape(shape)
        np.copyto(rows[: len(values)], values, casting="same_kind")
        rows[len(values) :] = values[-1:]
        self._device.upload(self._stream, address, staging)
        return address

    def _own(self, values: NDArray[Any], count: int) -> NDArray[Any]:
        """A copy of the rows that were asked for, out of the page-locked memory."""
        own = self._buffers.take((count, *values.shape[1:]), values.dtype)
        np.copyto(own, values[:count])
        return own


def filled_shapes(shapes: Mapping[str, Shape], profiles: Sequence[Profile]) -> dict[str, Shape]:
    """The shapes that run for inputs of given shapes: windows and prompts are filled up to one of few numbers.

    Args:
        shapes: an input's name → its shape; windows, or prompts, come first.
        profiles: of the engine.
    """
    filled = {}
    for name, shape in shapes.items():
        spans = [(profile[name][0][0], profile[name][1][0]) for profile in profiles]
        fewest = FEWEST_PROMPTS if name in PROMPT_INPUTS else 1
        filled[name] = (places(shape[0], spans, fewest), *shape[1:])
    return filled


def places(count: int, spans: Sequence[tuple[int, int]], fewest: int = 1) -> int:
    """How many windows or prompts run where ``count`` are asked for.

    An engine prepares itself anew for every number that it has not seen, so there are few: powers of two from
    ``fewest`` on, as far as the engine's profiles have them, and the ends of its profiles.

    Args:
        count: at least 1.
        spans: the smallest and the largest number of each profile.
        fewest: smallest number.

    Returns:
        A number that a profile takes and that is at least ``count``; where there is none, ``count`` itself.
    """
    if not any(count <= most for _, most in spans):
        return count
    wanted = bucket(count, fewest, max(most for _, most in spans))
    if any(least <= wanted <= most for least, most in spans):
        return wanted
    above = [least for least, _ in spans if least > wanted]
    below = [most for _, most in spans if count <= most < wanted]
    return min(below + above)
