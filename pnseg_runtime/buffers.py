"""Arrays that are used again, so that a steady stream of images allocates nothing large."""

from __future__ import annotations

import sys
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# What sys.getrefcount gives for a block that only the list holds: the list's reference and the argument's own.
_UNUSED = 2
_STEP = 1 << 16  # bytes; blocks are multiples of it, so that similar sizes share them


class Buffers:
    """A pool of memory blocks; safe to use from several threads.

    An array from :meth:`take` is the taker's for as long as it, or any view of it, is held somewhere.
    Then its block is given out again: nothing has to be handed back.

    Args:
        idle: unused blocks that are kept; of more, the smallest go.
    """

    def __init__(self, idle: int = 16) -> None:
        self._idle = idle
        self._blocks: list[NDArray[np.uint8]] = []
        self._lock = Lock()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with any content; of the unused blocks the smallest that is large enough holds it."""
        size = prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            block = self._unused(size)
            if block is None:
                block = np.empty(-(-max(size, 1) // _STEP) * _STEP, np.uint8)
                self._blocks.append(block)
                self._forget()
            # A view's base is the block itself, however many views lie between.
            return block[:size].view(dtype).reshape(shape)

    @property
    def bytes(self) -> int:
        """Memory of all blocks, used and unused."""
        with self._lock:
            return sum(block.nbytes for block in self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def _unused(self, size: int) -> NDArray[np.uint8] | None:
        fits = [i for i in self._unused_ones() if self._blocks[i].nbytes >= size]
        return self._blocks[min(fits, key=self._size)] if fits else None

    def _unused_ones(self) -> list[int]:
        # By index, since a name for the block would count as a holder.
        return [i for i in range(len(self._blocks)) if sys.getrefcount(self._blocks[i]) <= _UNUSED]

    def _size(self, index: int) -> int:
        return self._blocks[index].nbytes

    def _forget(self) -> None:
        unused = sorted(self._unused_ones(), key=self._size)
        for index in sorted(unused[: max(len(unused) - self._idle, 0)], reverse=True):
            del self._blocks[index]
