"""Nuclei of a part of a slide, from the row groups of the Parquet table that can hold them."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs import wkb

_BOX = ("bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1")
_CELLS = 256  # of the density grid along the longer side
MOST = 20_000  # nuclei in one answer


class NucleiTable:
    """The table of a result, of which a few row groups are in memory at a time."""

    def __init__(self, path: Path, shape: tuple[int, int], classes: list[str]) -> None:
        """Open a table.

        Args:
            path: Parquet of ``pnseg slide``.
            shape: (height, width) of the slide, px.
            classes: names, in the order of their numbers.

        Raises:
            OutputError: it is none, or damaged.
        """
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{path}: cannot be read as a table of nuclei ({error}); write it again.") from error
        with ExitStack() as stack:
            stack.callback(self._file.close)
            missing = {"id", "class", "geometry", *_BOX} - set(self._file.schema_arrow.names)
            if missing:
                raise OutputError(f"{path}: has no column {sorted(missing)[0]}; give the Parquet file of pnseg slide.")
            self._lock = threading.Lock()
            self._classes = classes
            self._group = lru_cache(maxsize=16)(self._read_group)
            self._cell = max(shape) / _CELLS
            self._grid = np.zeros(
                (len(classes), int(np.ceil(shape[0] / self._cell)), int(np.ceil(shape[1] / self._cell))), np.int64
            )
            self.counts: Counter[str] = Counter()
            self._boxes, self._ids = self._survey()
            stack.pop_all()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def _survey(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Bounds and numbers of every row group; counts classes and fills the density grid on the way."""
        boxes, ids = [], []
        for index in range(self._file.num_row_groups):
            part = self._file.read_row_group(index, columns=["id", "class", *_BOX])
            box = np.stack([part[name].to_numpy() for name in _BOX], axis=1)
            # A result without nuclei has a group without rows, whose bounds and numbers hold nothing.
            boxes.append([*box[:, :2].min(axis=0, initial=np.inf), *box[:, 2:].max(axis=0, initial=-np.inf)])
            number = part["id"].to_numpy()
            ids.append([number.min(), number.max()] if len(number) else [1, 0])
            names = part["class"].to_pylist()
            self.counts.update(names)
            centres = (box[:, :2] + box[:, 2:]) / 2 / self._cell
            kinds = np.array([self._classes.index(name) for name in names], np.intp)
            rows, columns = self._grid.shape[1:]
            x, y = np.clip(centres.astype(np.intp), 0, (columns - 1, rows - 1)).T
            np.add.at(self._grid, (kinds, y, x), 1)
        return np.array(boxes, np.float64).reshape(-1, 4), np.array(ids, np.int64).reshape(-1, 2)

    def _read_group(self, index: int) -> pa.Table:
        with self._lock:
            return self._file.read_row_group(index)

    def density(self) -> dict[str, Any]:
        """Counts of every class in a grid: cell size in px, and rows of cells."""
        return {"cell": self._cell, "counts": self._grid.tolist()}

    def within(self, box: tuple[float, float, float, float]) -> dict[str, Any]:
        """Nuclei whose centre of box lies in a box (x0, y0, x1, y1), px.

        Returns:
            ``nuclei``: [id, class number, outer ring as x, y, x, y …] of each, and ``left_out`` if
            they are more than are drawn.
        """
        x0, y0, x1, y1 = box
        near = (self._boxes[:, 0] < x1) & (self._boxes[:, 2] > x0) & (self._boxes[:, 1] < y1) & (self._boxes[:, 3] > y0)
        nuclei: list[list[Any]] = []
        left_out = 0
        for index in np.flatnonzero(near):
            table = self._group(int(index))
            boxes = np.stack([table[name].to_numpy() for name in _BOX], axis=1)
            x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
            rows = np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
            left_out += max(len(nuclei) + len(rows) - MOST, 0)
            some = table.select(["id", "class", "geometry"]).take(pa.array(rows[: MOST - len(nuclei)]))
            for row in some.to_pylist():
                rings = [polygon[0].ravel().tolist() for polygon in wkb.decode(row["geometry"])]
                nuclei.append([row["id"], self._classes.index(row["class"]), rings])
        return {"nuclei": nuclei, "left_out": left_out}

    def row(self, number: int) -> dict[str, Any] | None:
        """Everything that the table says of a nucleus, with units, or None if there is none."""
        for index in np.flatnonzero((self._ids[:, 0] <= number) & (self._ids[:, 1] >= number)):
            table = self._group(int(index))
            found = table.filter(pc.equal(table["id"], number)).drop_columns(["geometry"])
            if found.num_rows:
                units = {f.name: ((f.metadata or {}).get(b"unit", b"")).decode() for f in found.schema}
                values = found.to_pylist()[0]
                return {name: {"value": value, "unit": units[name]} for name, value in values.items()}
        return None
