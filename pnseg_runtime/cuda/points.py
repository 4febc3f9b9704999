"""The prompter and everything up to prompts on the GPU: the device twin of :mod:`pnseg_runtime.prompts`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.cuda.engines import Engine
from pnseg_runtime.cuda.frame import Frame, Rules, normalise
from pnseg_runtime.cuda.streams import BLOCKS, ONE_BLOCK, THREADS, Streams
from pnseg_runtime.pixels import padded_shape
from pnseg_runtime.windows import MacroTile

#: Of a warm-up: more than any logit, so that every anchor is a nucleus.
EVERYWHERE = 1e6
_SIZES = {"coords": 8, "kinds": 4, "scores": 4}  # bytes a point


@dataclass(frozen=True)
class Prompts:
    """Points on the GPU, and how many of them there are.

    Attributes:
        points: how many.
        starts: (windows + 1,) first prompt of each window.
        coords, kinds, scores, count, central: addresses.
    """

    points: int
    starts: NDArray[np.int32]
    coords: int
    kinds: int
    scores: int
    count: int
    central: int

    @property
    def starts_at(self) -> int:
        """Address of the windows' first prompts: they stand behind the number of points."""
        return self.count + 4


class PointFinder:
    """From an image to points, and which window decodes which."""

    def __init__(self, streams: Streams, rules: Rules, engine: Engine) -> None:
        self._streams, self._rules, self._engine = streams, rules, engine
        self._prompter = engine.execution(streams.compute.handle, streams.scratch, captured=False)

    def find(self, frame: Frame) -> Prompts:
        """The prompts of an image; waits for how many each window has."""
        return self._assign(frame, self._find_points(frame))

    def _find_points(self, frame: Frame) -> tuple[int, int]:
        """Candidates of all tiles, and point NMS; returns how many candidates there may be, and the head's address."""
        streams, settings = self._streams, self._rules.settings
        spacing = self._rules.manifest.prompting.anchor_spacing
        grids = [_grid(tile, spacing) for tile in frame.tiles]
        most = sum(rows * columns for rows, columns in grids)
        head = streams.at("head", 4 * (2 + len(frame.origins)))  # how many points, then the windows' first prompts
        found = self._points_at("found", most)
        kept = self._points_at("kept", most)
        count = streams.at("found.count", 4)
        streams.fill(count, 0, 4)
        streams.fill(head, 0, 4)
        for index, (tile, grid) in enumerate(zip(frame.tiles, grids, strict=True)):
            self._propose_points(frame, index, tile, grid, found, count)

        height, width = frame.shape
        side = max(settings.nms_radius * 1.001, 8.0)
        columns, rows = int((width - 1) / side) + 1, int((height - 1) / side) + 1
        cells = rows * columns
        counts, first = streams.at("cells", 4 * cells), streams.at("cells.first", 4 * (cells + 1))
        members, state = streams.at("cells.members", 4 * most), streams.at("found.state", 4 * most)
        streams.fill(counts, 0, 4 * cells)
        streams.fill(state, 0, 4 * most)
        coords, kinds, scores = found
        streams.launch("count_cells", BLOCKS, THREADS, coords, count, side, columns, counts)
        streams.launch("scan_counts", 1, ONE_BLOCK, counts, cells, first)
        streams.launch("fill_cells", BLOCKS, THREADS, coords, count, side, columns, first, counts, members)
        streams.launch("settle_points", 1, ONE_BLOCK, coords, scores, count, float(settings.nms_radius), side, columns,
                       rows, first, members, state)  # fmt: skip
        streams.launch("compact_points", 1, ONE_BLOCK, coords, kinds, scores, state, count, 0, *kept, head)
        streams.mark("points")
        return most, head

    def _propose_points(
        self, frame: Frame, index: int, tile: MacroTile, grid: tuple[int, int], found: tuple[int, int, int], count: int
    ) -> None:
        """What the prompter makes of one tile, put behind the candidates that are there."""
        streams, manifest = self._streams, self._rules.manifest
        x0, y0, x1, y1 = tile.view
        padded = padded_shape((y1 - y0, x1 - x0), manifest.prompting.pad_multiple)
        image = streams.at("prompter.image", 12 * padded[0] * padded[1])
        view = frame.views + 16 * index
        normalise(streams, frame.softer, frame.frame, manifest.normalisation, view, 1, padded, image)
        streams.mark("prepare")
        outputs = self._prompter.prepare({"image": (1, 3, *padded)})
        at = streams.tensors("prompter", outputs, self._engine.outputs)
        self._prompter.run({"image": image, **at})
        streams.mark("prompter")
        rows, columns = grid
        raw = self._points_at("raw", rows * columns)
        keep = streams.at("raw.keep", 4 * rows * columns)
        streams.launch("decode_anchors", BLOCKS, THREADS, at["points"], at["class_logits"], at["region_logits"], rows,
                       columns, padded[1] // manifest.prompting.anchor_spacing, outputs["class_logits"][-1], padded[1],
                       x0, y0, x1 - x0, y1 - y0, *tile.core, *self._thresholds(frame), *raw, keep)  # fmt: skip
        streams.launch("compact_points", 1, ONE_BLOCK, *raw, keep, 0, rows * columns, *found, count)
        streams.mark("points")

    def _thresholds(self, frame: Frame) -> tuple[float, float, int]:
        # Sensitivity, least score, whether points outside of the region are dropped.
        settings = self._rules.settings
        if frame.everywhere:
            return EVERYWHERE, 0.0, 0
        return settings.sensitivity, settings.score_threshold, int(settings.region_filter)

    def _assign(self, frame: Frame, candidates: tuple[int, int]) -> Prompts:
        """Which window decodes which point; the host gets how many prompts each has."""
        streams, (most, head) = self._streams, candidates
        coords, kinds, scores = self._points_at("kept", most)
        window, everywhere = self._rules.manifest.masking.window, int(self._rules.options.assignment == "all")
        central, counts = streams.at("central", 4 * most), streams.at("window.counts", 4 * len(frame.origins))
        streams.launch("find_central_windows", BLOCKS, THREADS, coords, head, frame.origins_at, len(frame.origins),
                       window, frame.frame, central)  # fmt: skip
        streams.launch("count_prompts", len(frame.origins), THREADS, coords, head, frame.origins_at, window, central,
                       everywhere, counts)  # fmt: skip
        streams.launch("scan_counts", 1, ONE_BLOCK, counts, len(frame.origins), head + 4)
        streams.mark("points")
        points, *_ = numbers = streams.numbers("head", 2 + len(frame.origins), head)
        return Prompts(int(points), numbers[1:], coords, kinds, scores, head, central)

    def _points_at(self, name: str, most: int) -> tuple[int, int, int]:
        """Addresses of points' coordinates, classes and scores."""
        coords, kinds, scores = (self._streams.at(f"{name}.{part}", size * most) for part, size in _SIZES.items())
        return coords, kinds, scores


def _grid(tile: MacroTile, spacing: int) -> tuple[int, int]:
    """Rows and columns of the anchors that a tile has of its own."""
    x0, y0, x1, y1 = tile.view
    return -(-(y1 - y0) // spacing), -(-(x1 - x0) // spacing)
