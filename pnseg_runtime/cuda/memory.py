"""Memory by name: on the GPU and, page-locked, on the host; a piece is as large as it was ever asked to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.cuda.driver import Device


class Memory:
    """Pieces of memory of one thread, which are used again and again.

    Args:
        device: the GPU.
        before_growth: called before a piece on the GPU goes, mostly for a larger one, so that nothing uses it any more.
    """

    def __init__(self, device: Device, before_growth: Callable[[], None]) -> None:
        self._device = device
        self._before_growth = before_growth
        self._pieces: dict[str, tuple[Any, int]] = {}
        self._pinned: dict[str, NDArray[np.uint8]] = {}

    def at(self, name: str, nbytes: int | None = None, exactly: bool = False) -> int:
        """Address of a piece on the GPU; without a size, as it is; ``exactly``: it grows to the size and no further."""
        memory, size = self._pieces.get(name, (None, -1))
        if nbytes is not None and nbytes > size:
            if memory is not None:
                self._before_growth()
                nbytes = nbytes if exactly else max(nbytes, size * 3 // 2)
            del memory
            self._pieces.pop(name, None)
            self._pieces[name] = (self._device.memory(nbytes), nbytes)
        return int(self._pieces[name][0])

    def clear(self) -> None:
        """Let go of all pieces."""
        self._before_growth()
        self._pieces.clear()
        self._pinned.clear()

    def staging(self, name: str, nbytes: int) -> NDArray[np.uint8]:
        """(nbytes,) uint8 page-locked memory; nothing may be on its way from or to it any more."""
        if name not in self._pinned or len(self._pinned[name]) < nbytes:
            self._pinned[name] = self._device.pinned(nbytes * 3 // 2)
        return self._pinned[name][:nbytes]
