"""Samples that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import overload

from pnseg_train.datasets.sample import Sample


class Samples(Sequence[Sample]):
    """A sequence of samples, each read from its files anew whenever it is indexed.

    Nothing is kept, so a set may be larger than the memory; make it a list to hold it.
    """

    def __init__(self, readers: Iterable[Callable[[], Sample]]):
        self.readers = tuple(readers)

    @classmethod
    def joined(cls, parts: Iterable[Samples]) -> Samples:
        """Several sequences after each other."""
        return cls(reader for part in parts for reader in part.readers)

    def __len__(self) -> int:
        return len(self.readers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self.readers[index])
        return self.readers[index]()
