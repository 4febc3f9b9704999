"""Two streams of a GPU, the memory they work on, and the small verbs that everything in a lane is said in.

``compute`` runs networks and kernels, ``copy`` everything that goes between host and GPU. Each waits for the other by
events alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.clock import STAGES
from pnseg_runtime.cuda.driver import Device, Graph, as_array
from pnseg_runtime.cuda.engines import Shape
from pnseg_runtime.cuda.memory import Memory
from pnseg_runtime.errors import BackendError

#: Threads of a block: for kernels that go over many items, and for those that are one block.
THREADS, ONE_BLOCK = 256, 1024
#: Blocks of kernels whose number of items the host does not know; each thread goes over several.
BLOCKS = 128

log = logging.getLogger(__name__)


class Streams:
    """Streams, events, memory and graphs of one thread.

    Attributes:
        compute, copy: the streams.
        uploaded: of each of two images, that it has arrived.
        planned: the networks' batches have arrived.
    """

    def __init__(self, device: Device, use_graphs: bool) -> None:
        """Open the streams; ``use_graphs``: record what comes again and again."""
        self._device, self._use_graphs = device, use_graphs
        self.compute, self.copy = device.stream(), device.stream()
        self.uploaded = [device.event(), device.event()]
        self.planned, self._computed, self._downloaded = device.event(), device.event(), device.event()
        self._graphs: dict[tuple[Any, ...], Graph] = {}
        self._memory = Memory(device, partial(let_go, device, (self.compute, self.copy), self._graphs))
        self._ran: set[tuple[Any, ...]] = set()
        self._marks: list[tuple[str, Any]] = []
        self._events: list[Any] = []

    def settle(self) -> None:
        """Wait for everything that has been put on the streams."""
        self._device.synchronise(self.compute)
        self._device.synchronise(self.copy)

    def forget(self) -> None:
        """Let go of all memory and graphs, once nothing uses them any more."""
        self._memory.clear()

    def finish(self) -> None:
        """Wait for everything that has been put on the compute stream."""
        self._device.synchronise(self.compute)

    def record_upload(self, event: Any) -> None:
        """Let an event happen once everything that was sent so far has arrived."""
        self._device.record(event, self.copy)

    def wait_for_upload(self, event: Any) -> None:
        """Let what comes on the compute stream wait for an event."""
        self._device.wait(self.compute, event)

    def at(self, name: str, nbytes: int | None = None) -> int:
        """Address of a piece of memory; see :meth:`Memory.at`."""
        return self._memory.at(name, nbytes)

    def scratch(self, nbytes: int) -> int:
        """Address of memory that all networks on the compute stream share; where it grows, graphs are dropped."""
        return self._memory.at("scratch", nbytes, exactly=True)

    def tensors(self, network: str, shapes: Mapping[str, Shape], types: Mapping[str, np.dtype[Any]]) -> dict[str, int]:
        """Addresses of a network's tensors."""
        return {
            name: self.at(f"{network}.{name}", prod(shape) * types[name].itemsize) for name, shape in shapes.items()
        }

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        """Fill memory with a byte, on the compute stream."""
        self._device.fill(self.compute, address, byte, nbytes)

    def move(self, to: int, source: int, nbytes: int) -> None:
        """Copy within the GPU, on the compute stream."""
        self._device.copy(self.compute, to, source, nbytes)

    def launch(self, name: str, grid: int | tuple[int, int], block: int, *arguments: Any) -> None:
        """Run a kernel."""
        self._device.launch(self.compute, name, grid, block, *arguments)

    def run(self, key: tuple[Any, ...], put: Callable[[], None]) -> None:
        """Put something on the stream that comes again and again; from its third time on it is a graph.

        TensorRT has to have run a shape, with the memory that it has now, right before it is captured, since what has
        changed is prepared by the next run; so the second time, too, it runs plainly, and the graph is for the third.
        """
        if key in self._graphs:
            self._device.replay(self.compute, self._graphs[key])
            return
        put()
        if self._use_graphs and key in self._ran:
            self._record(key, put)
        self._ran.add(key)

    def _record(self, key: tuple[Any, ...], put: Callable[[], None]) -> None:
        """Make a graph of what has just run plainly; if that fails, it is the last try, since all else works."""
        try:
            with self._device.capture(self.compute) as graph:
                put()
        except BackendError as error:
            self._use_graphs = False
            log.warning("CUDA graphs: %s From here on what has no graph runs without one, more slowly.", error)
        else:
            self._graphs[key] = graph

    def upload(self, name: str, values: NDArray[Any], address: int) -> None:
        """Send an array to the GPU; what was last sent under this name must have arrived."""
        staging = self._memory.staging(f"to.{name}", values.nbytes)
        np.copyto(staging.view(values.dtype).reshape(values.shape), values)
        self._device.upload(self.copy, address, staging)

    def download(self, name: str, nbytes: int, address: int) -> NDArray[np.uint8]:
        """Page-locked memory that holds the values once :meth:`wait_for_copies` returns."""
        staging = self._memory.staging(f"from.{name}", nbytes)
        if nbytes:
            self._device.download(self.copy, staging, address)
        return staging

    def wait_for_copies(self) -> None:
        """Wait for what was asked for by :meth:`download`."""
        self._device.record(self._downloaded, self.copy)
        self._device.await_event(self._downloaded)

    def numbers(self, name: str, count: int, address: int) -> NDArray[np.int32]:
        """(count,) int32 that the compute stream leaves at an address; waits for them."""
        self._device.record(self._computed, self.compute)
        self._device.wait(self.copy, self._computed)
        staging = self.download(name, 4 * count, address)
        self.wait_for_copies()
        return as_array(staging, count, np.int32).copy()

    def restart(self) -> None:
        """Begin to take the time of the stages."""
        self._marks.clear()
        self.mark("")

    def mark(self, stage: str) -> None:
        """The end of a stage on the compute stream."""
        while len(self._events) <= len(self._marks):
            self._events.append(self._device.event())
        event = self._events[len(self._marks)]
        self._device.record(event, self.compute)
        self._marks.append((stage, event))

    def timings(self) -> dict[str, float]:
        """Seconds of each stage on the compute stream."""
        seconds = dict.fromkeys(STAGES, 0.0)
        for (_, before), (stage, event) in zip(self._marks, self._marks[1:], strict=False):
            seconds[stage] += self._device.seconds(before, event)
        return seconds


def let_go(device: Device, streams: tuple[Any, ...], graphs: dict[tuple[Any, ...], Graph]) -> None:
    """Before memory goes: what still runs may use it, and graphs have its address.

    No method of the streams, which would then live on in their own memory.
    """
    for stream in streams:
        device.synchronise(stream)
    graphs.clear()
