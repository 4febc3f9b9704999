"""The label image of a slide: OME-Zarr 0.5 with a pyramid, painted block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime import __version__
from pnseg_runtime.errors import OutputError
from pnseg_runtime.nuclei import NucleusClass
from pnseg_runtime.slide.outputs.rows import Part, Sink
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.readers.base import Box
from pnseg_runtime.slide.resolution import Resolution
from pnseg_runtime.slide.store import Store
from pnseg_runtime.slide.table import WorkMask, work_masks

if TYPE_CHECKING:
    from pnseg_runtime.slide.job import SlideJob

CHUNK = 1024  # px
_BLOCK = 2 * CHUNK
_SMALLEST = 1024  # px, longest side of the last level of the pyramid
_NAMED_LABELS = 20_000  # so many labels have their class in the metadata; of more the table tells
_REACH = 256  # work px that a mask goes beyond its core; larger windows are asked for their own


def check_zarr() -> None:
    """See that the library can write the format.

    Raises:
        OutputError: zarr 3 is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise OutputError('labels: need zarr 3: pip install "pnseg[slide]", or leave them out with --only.') from error
    if int(zarr.__version__.split(".")[0]) < 3:
        raise OutputError(
            f"labels: need zarr 3 and with it Python 3.11, not zarr {zarr.__version__}; leave them out with --only."
        )


class LabelSink(Sink):
    """The label image, painted when all nuclei are numbered: a block of it shows those of several cores."""

    def __init__(self, job: SlideJob, folder: Path) -> None:
        self._job = job
        self._folder = folder
        self._firsts: list[int] = []

    def add(self, part: Part) -> None:
        self._firsts.append(part.first)

    def close(self) -> None:
        manifest = self._job.bundle.manifest
        write_labels(
            self._folder,
            self._job.stem,
            self._job.store,
            self._firsts,
            self._job.resolution,
            self._job.reader.shape,
            manifest.class_table,
            reach=manifest.masking.window,
        )


def write_labels(
    folder: Path,
    name: str,
    store: Store,
    firsts: Sequence[int],
    resolution: Resolution,
    shape: tuple[int, int],
    class_table: Sequence[NucleusClass],
    reach: int = _REACH,
) -> None:
    """Write the label image: 0 is background, i the nucleus of row i of the table.

    Args:
        folder: where the Zarr group goes, not there yet.
        name: of the slide.
        store: settled nuclei of all cores.
        firsts: the number of the first nucleus of every core.
        resolution: of the slide.
        shape: (height, width) of level 0, px.
        class_table: the model's classes.
        reach: work px that a mask may go beyond its core.
    """
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    arrays: list[Any] = []
    size = shape
    while True:
        arrays.append(_array(group, str(len(arrays)), size))
        if max(size) <= _SMALLEST:
            break
        size = (max(size[0] // 2, 1), max(size[1] // 2, 1))
    painter = _Painter(store, firsts, resolution, reach)
    filled = set()
    for y0, x0 in _blocks(shape):
        block = painter.paint((x0, y0, min(x0 + _BLOCK, shape[1]), min(y0 + _BLOCK, shape[0])))
        if block is not None:
            arrays[0][y0 : y0 + _BLOCK, x0 : x0 + _BLOCK] = block
            filled.add((y0, x0))
    for fine, coarse in pairwise(arrays):
        filled = _reduce(fine, coarse, filled)
    names = _class_names(store, firsts)
    group.attrs["ome"] = _metadata(name, len(arrays), resolution.slide_mpp, names, class_table)


def _array(group: Any, name: str, shape: tuple[int, int]) -> Any:
    from zarr.codecs import BloscCodec

    return group.create_array(
        name,
        shape=shape,
        chunks=(min(CHUNK, shape[0]), min(CHUNK, shape[1])),
        dtype="uint32",
        compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=4),
        fill_value=0,
        dimension_names=("y", "x"),
    )


def _blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for y0 in range(0, shape[0], _BLOCK):
        for x0 in range(0, shape[1], _BLOCK):
            yield y0, x0


def _reduce(fine: Any, coarse: Any, filled: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Every second pixel of every second row: labels have no means. Blocks that are empty are passed over."""
    found = set()
    height, width = coarse.shape
    for y0, x0 in _blocks(coarse.shape):
        parts = {(2 * y0 + dy, 2 * x0 + dx) for dy in (0, _BLOCK) for dx in (0, _BLOCK)} & filled
        if not parts:
            continue
        y1, x1 = min(y0 + _BLOCK, height), min(x0 + _BLOCK, width)
        coarse[y0:y1, x0:x1] = fine[2 * y0 : 2 * y1, 2 * x0 : 2 * x1][::2, ::2]
        found.add((y0, x0))
    return found


class _Painter:
    """Paints blocks of level 0 from the masks of the cores that reach into them."""

    def __init__(self, store: Store, firsts: Sequence[int], resolution: Resolution, reach: int) -> None:
        self._store = store
        self._resolution = resolution
        self._firsts = dict(zip(store.plan.cores, firsts, strict=True))
        boxes = [core.core for core in store.plan.cores]
        self._boxes = np.array(boxes, np.int64).reshape(-1, 4) + np.array([-reach, -reach, reach, reach])
        self._masks = lru_cache(maxsize=24)(self._load)

    def paint(self, box: Box) -> NDArray[np.uint32] | None:
        """(h, w) uint32 of a box of level 0, or None if nothing lies there."""
        x0, y0, x1, y1 = box
        height, width = self._resolution.shape
        columns = np.minimum(self._resolution.nearest_work(x0, x1), width - 1)
        rows = np.minimum(self._resolution.nearest_work(y0, y1), height - 1)
        wx0, wy0, wx1, wy1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        near = (self._boxes[:, :2] < (wx1, wy1)).all(axis=1) & (self._boxes[:, 2:] > (wx0, wy0)).all(axis=1)
        canvas = np.zeros((wy1 - wy0, wx1 - wx0), np.uint32)
        touched = False
        for index in np.flatnonzero(near):
            for each in self._masks(self._store.plan.cores[index]):
                touched |= _put(canvas, (wx0, wy0), each)
        return canvas[(rows - wy0)[:, None], (columns - wx0)[None, :]] if touched else None

    def _load(self, core: Core) -> list[WorkMask]:
        return list(work_masks(self._store.load_settled(core), self._firsts[core]))


def _put(canvas: NDArray[np.uint32], origin: tuple[int, int], nucleus: WorkMask) -> bool:
    """Paint what of a nucleus lies on the canvas."""
    x0, y0, x1, y1 = nucleus.box
    left, top = max(x0, origin[0]), max(y0, origin[1])
    right, bottom = min(x1, origin[0] + canvas.shape[1]), min(y1, origin[1] + canvas.shape[0])
    if left >= right or top >= bottom:
        return False
    mask = nucleus.mask[top - y0 : bottom - y0, left - x0 : right - x0]
    canvas[top - origin[1] : bottom - origin[1], left - origin[0] : right - origin[0]][mask] = nucleus.label
    return True


def _class_names(store: Store, firsts: Sequence[int]) -> list[str] | None:
    """The class of every label, if there are not too many of them."""
    if firsts and firsts[-1] > _NAMED_LABELS:
        return None
    names = [name for core in store.plan.cores for name in store.load_settled(core)["class"].to_pylist()]
    return names if len(names) <= _NAMED_LABELS else None


def _metadata(
    name: str, levels: int, mpp: float, names: list[str] | None, class_table: Sequence[NucleusClass]
) -> dict[str, Any]:
    colors = {kind.name: [*kind.color, 255] for kind in class_table}
    labels: dict[str, Any] = {"colors": [{"label-value": 0, "rgba": [0, 0, 0, 0]}]}
    if names:
        # The specification wants the same labels in both.
        labels["colors"] = [{"label-value": i, "rgba": colors[n]} for i, n in enumerate(names, start=1)]
        labels["properties"] = [{"label-value": i, "class": n} for i, n in enumerate(names, start=1)]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"],
                "datasets": [
                    {
                        "path": str(level),
                        "coordinateTransformations": [{"type": "scale", "scale": [mpp * 2**level] * 2}],
                    }
                    for level in range(levels)
                ],
                "type": "nearest",
            }
        ],
        "image-label": labels,
        "_creator": {"name": "pnseg", "version": __version__},
    }
