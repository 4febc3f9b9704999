"""The CUDA driver through PyCUDA: the few verbs that the pipeline needs, each of which checks what the driver returns.

PyCUDA raises for every error code of the calls that it wraps. Graphs, which it does not know, are called in the driver
library itself and checked here. Nothing of PyCUDA is imported before a :class:`Device` is made.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import byref
from functools import partial
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pnseg_runtime.cuda.binaries import binary_for
from pnseg_runtime.cuda.nvidia import LIBRARY, OLD_DRIVER, find_driver
from pnseg_runtime.errors import BackendError

#: Arguments of each kernel, as the characters of :mod:`struct`: P pointer, i int, f float, d double.
ARGUMENTS = {
    "normalise_windows": "PPPiiffffffP",
    "decode_anchors": "PPPiiiiiiiiiiiiiffiPPPP",
    "compact_points": "PPPPPiPPPP",
    "scan_counts": "PiP",
    "count_cells": "PPdiP",
    "fill_cells": "PPdiPPP",
    "settle_points": "PPPddiiPPP",
    "find_central_windows": "PPPiiPP",
    "count_prompts": "PPPiPiP",
    "list_prompts": "PPPiPiPPP",
    "point_prompts": "PPPiPPPiiPPPP",
    "box_masks": "PPiiiPPPPPPPPP",
    "place_masks": "PiPPP",
    "write_masks": "PiiPPPPPPP",
    "match_duplicates": "PPPiP",
    "choose_masks": "PPifPPP",
    "tidy_masks": "PPPiPPPPPP",
    "rank_values": "PPPP",
    "find_conflicts": "PPPPPPdiiiP",
    "reduce_conflicts": "PPPiiiPP",
    "paint_masks": "PPPPPPPPPP",
    "uncover_masks": "PPPPPPPPPP",
    "order_nuclei": "PPPPPPP",
    "emit_nuclei": "PPPPPPPPPPPPPPP",
    "count_overlaps": "PPiiPPP",
    "match_overlaps": "PPPiiP",
}

#: Of a capture: other threads may allocate meanwhile.
CAPTURE_THREAD_LOCAL = 1
#: Of a stream: it neither waits for the legacy stream, where other libraries work, nor makes that wait. While another
#: kind of stream is captured, whatever any thread does on the legacy stream fails.
NON_BLOCKING = 1

_CAPTURE = Lock()  # one at a time: Python's collector, which rests meanwhile, is the same for all threads


class Device:
    """A GPU, its primary context and pnseg's kernels on it; several threads may use it at once.

    Everything that touches the GPU stands below ``with device.current():``.
    """

    def __init__(self, index: int = 0, kernels: bool = True) -> None:
        """Take a GPU into use.

        Args:
            index: of the GPU, as the driver counts.
            kernels: whether pnseg's kernels are loaded; engines alone do without.

        Raises:
            BackendError: PyCUDA or the driver is missing, there is no such GPU, or it is too old.
        """
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise BackendError(not_imported(error)) from error
        self._driver = driver
        with checked("the CUDA driver does not start"):
            driver.init()
            count = driver.Device.count()
        if index >= count:
            raise BackendError(f"There is no GPU {index} on this machine, which has {count}; choose one from 0 on.")
        with checked("the GPU does not start"):
            device = driver.Device(index)
            self.name: str = device.name()
            self.capability: tuple[int, int] = device.compute_capability()
            self._context = device.retain_primary_context()
        # Left to its destructor, PyCUDA would give a primary context back as if it had made it.
        finalize(self, release, self._context)
        self._library = ctypes.CDLL(LIBRARY)
        self._kernels: dict[str, Any] = {}
        if kernels:
            self._load_kernels()

    def _load_kernels(self) -> None:
        with self.current(), checked(f"the driver does not take the kernels; {OLD_DRIVER}"):
            self._module = self._driver.module_from_buffer(binary_for(self.capability))
            self._kernels = {
                name: self._module.get_function(name).prepare(format_) for name, format_ in ARGUMENTS.items()
            }

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's primary context that of this thread for the time being."""
        with checked("the context of the GPU is lost"):
            self._context.push()
        with at_last(self._leave):
            yield

    def _leave(self) -> None:
        with checked("the context of the GPU is lost"):
            self._driver.Context.pop()

    def memory(self, nbytes: int) -> Any:
        """Device memory; ``int()`` of it is its address, and it is freed with its last reference."""
        with checked(f"the GPU has no {mebibytes(nbytes)} MiB left"):
            return self._driver.mem_alloc(max(nbytes, 1))

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory, (nbytes,) uint8: what asynchronous copies need."""
        with checked(f"the host has no {mebibytes(nbytes)} MiB of page-locked memory left"):
            array: NDArray[np.uint8] = self._driver.pagelocked_empty(max(nbytes, 1), np.uint8)
            return array

    def stream(self) -> Any:
        """A new stream."""
        with checked("no stream"):
            return self._driver.Stream(NON_BLOCKING)

    def event(self) -> Any:
        """A new event."""
        with checked("no event"):
            return self._driver.Event()

    def synchronise(self, stream: Any) -> None:
        """Wait for everything that has been put on a stream; what went wrong on the GPU is told here."""
        with checked("what was put on a stream"):
            stream.synchronize()

    def record(self, event: Any, stream: Any) -> None:
        """Let an event happen once everything on a stream is done."""
        with checked("record of an event"):
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        """Let what comes on a stream wait for an event."""
        with checked("wait for an event"):
            stream.wait_for_event(event)

    def await_event(self, event: Any) -> None:
        """Wait for an event; what went wrong on the GPU is told here."""
        with checked("what was put on a stream"):
            event.synchronize()

    def seconds(self, before: Any, after: Any) -> float:
        """Time between two events that have happened."""
        with checked("time between events"):
            return float(after.time_since(before)) * 1e-3

    def launch(self, stream: Any, name: str, grid: int | tuple[int, int], block: int, *arguments: Any) -> None:
        """Put a kernel on a stream.

        Args:
            stream: from :meth:`stream`.
            name: of the kernel.
            grid: blocks, along x or along x and y.
            block: threads a block.
            arguments: addresses, ints and floats.
        """
        size = (*grid, 1) if isinstance(grid, tuple) else (grid, 1, 1)
        with checked(name):
            self._kernels[name].prepared_async_call(size, (block, 1, 1), stream, *arguments)

    def upload(self, stream: Any, address: int, pinned: NDArray[Any]) -> None:
        """Copy page-locked host memory to the GPU; it must not change before the copy is done."""
        with checked("copy to the GPU"):
            self._driver.memcpy_htod_async(address, pinned, stream)

    def download(self, stream: Any, pinned: NDArray[Any], address: int) -> None:
        """Copy from the GPU to page-locked host memory."""
        with checked("copy from the GPU"):
            self._driver.memcpy_dtoh_async(pinned, address, stream)

    def copy(self, stream: Any, to: int, address: int, nbytes: int) -> None:
        """Copy on the GPU."""
        with checked("copy on the GPU"):
            self._driver.memcpy_dtod_async(to, address, nbytes, stream)

    def fill(self, stream: Any, address: int, byte: int, nbytes: int) -> None:
        """Set every byte of device memory."""
        if nbytes:
            with checked("fill"):
                self._driver.memset_d8_async(address, byte, nbytes, stream)

    @contextmanager
    def capture(self, stream: Any) -> Iterator[Graph]:
        """Record what is put on a stream meanwhile as a graph, instead of running it.

        Captures of all threads take turns.

        Raises:
            BackendError: something cannot be recorded; the stream is then as it was before.
        """
        graph = Graph(self._library)
        recorded = ctypes.c_void_p()
        handle = ctypes.c_void_p(stream.handle)
        end = partial(self._call, "cuStreamEndCapture", handle, byref(recorded))
        try:
            with nothing_collected():
                self._call("cuStreamBeginCapture_v2", handle, ctypes.c_int(CAPTURE_THREAD_LOCAL))
                with at_last(end):  # also after an error, or the stream would stay in capture
                    yield graph
            self._call("cuGraphInstantiateWithFlags", byref(graph.handle), recorded, ctypes.c_ulonglong(0))
        finally:
            if recorded:
                self._library.cuGraphDestroy(recorded)

    def replay(self, stream: Any, graph: Graph) -> None:
        """Put a recorded graph on a stream."""
        self._call("cuGraphLaunch", graph.handle, ctypes.c_void_p(stream.handle))

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise BackendError(f"CUDA: {name} failed (error {code}); pnseg doctor says what this machine lacks.")


def not_imported(error: ImportError) -> str:
    """Why PyCUDA does not import, and what helps."""
    if (problem := find_driver().problem) is not None:
        return f"CUDA: {problem}; pnseg doctor says more."
    if "undefined symbol: cu" in str(error):  # of the driver's library: PyCUDA takes all that its toolkit had
        return (
            f"PyCUDA asks the driver for more than it has ({error}): {OLD_DRIVER}; update it, or build PyCUDA with an "
            "older CUDA toolkit: pip install --no-cache-dir --force-reinstall --no-deps pycuda"
        )
    return f"PyCUDA does not import ({error}); run: pip install 'pnseg[tensorrt]' (it needs a CUDA toolkit)."


def release(context: Any) -> None:
    """Give a primary context back; what is still left of it is then known to be gone."""
    from pycuda.driver import Error

    with suppress(Error):  # behind an error on the GPU nothing is left to give back
        context.push()
        context.detach()


class Graph:
    """A recorded graph, until its last reference goes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.handle = ctypes.c_void_p()

    def __del__(self) -> None:
        if self.handle:
            self._library.cuGraphExecDestroy(self.handle)


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Keep Python's collector at rest: a thread that captures must not give memory of the GPU's back.

    The driver would refuse, and the capture would be lost.
    """
    with _CAPTURE:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


@contextmanager
def checked(what: str) -> Iterator[None]:
    """PyCUDA's errors as pnseg's.

    Raises:
        BackendError: PyCUDA raised.
    """
    from pycuda.driver import Error

    try:
        yield
    except Error as error:
        raise BackendError(f"CUDA: {what} ({error}); pnseg doctor says what this machine lacks.") from error


@contextmanager
def at_last(tidy_up: Callable[[], None]) -> Iterator[None]:
    """Tidy up at the end, whatever happens; where it fails because of an error before, that error is the one told.

    Raises:
        BackendError: of ``tidy_up``, where nothing was raised before.
    """
    try:
        yield
    except BaseException:
        with suppress(BackendError):
            tidy_up()
        raise
    tidy_up()


def mebibytes(nbytes: int) -> int:
    """Rounded up."""
    return -(-nbytes // 2**20)


def as_array(pinned: NDArray[np.uint8], count: int, dtype: DTypeLike, offset: int = 0) -> NDArray[Any]:
    """``count`` values of page-locked memory from byte ``offset`` on."""
    dtype = np.dtype(dtype)
    return pinned[offset : offset + count * dtype.itemsize].view(dtype)
