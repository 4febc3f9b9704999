"""One prediction at a time on a GPU: its streams, memory, executions and graphs, and the order of what runs.

Two streams: ``compute`` runs networks and kernels, ``copy`` everything that goes between host and GPU. Each waits for
the other by events alone. The host waits three times an image: for how many prompts each window has (from which the
networks' batches follow), for how many nuclei there are, and for the nuclei.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import Manifest
from pnseg_runtime.clock import STAGES
from pnseg_runtime.cuda.driver import Device, Graph, as_array
from pnseg_runtime.cuda.engines import Engines, Shape
from pnseg_runtime.cuda.memory import Memory
from pnseg_runtime.cuda.plan import WindowBatch, job_rows, window_batches
from pnseg_runtime.nuclei import Mask, Nuclei
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.pipeline import Pixels, padded_shape
from pnseg_runtime.windows import MacroTile, Origins, macro_tiles, windows

#: Threads of a block: for kernels that go over many items, and for those that are one block.
THREADS, ONE_BLOCK = 256, 1024
#: Blocks of kernels whose number of items the host does not know; each thread goes over several.
BLOCKS = 128
#: Words of mask bits that a point is thought to need: 64 × 64 px. If they do not do, more are taken.
WORDS_PER_POINT = 128
#: Higher than any rank, and four equal bytes.
UNPAINTED = 0x7F
#: A nucleus as it comes from the GPU (``Nucleus`` in paint.cu).
NUCLEUS = np.dtype(
    [
        ("point", np.float32, 2),
        ("kind", np.int32),
        ("score", np.float32),
        ("iou", np.float32),
        ("box", np.int32, 4),
        ("start", np.int32),
    ]
)
TIGHTEN, LARGEST, LARGEST_FILLED = range(3)


@dataclass(frozen=True)
class Frame:
    """An image on its way to the GPU.

    Attributes:
        slot: which of the lane's two places for images it has.
        shape: (height, width), px.
        tiles: of the prompter.
        origins: of the windows.
        image, frame, views, origins_at: addresses of the pixels, of height and width, and of the tiles' and
            windows' tables.
    """

    slot: int
    shape: tuple[int, int]
    tiles: list[MacroTile]
    origins: Origins
    image: int
    frame: int
    views: int
    origins_at: int


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


class Lane:
    """What one thread needs to predict; not to be used by two at once."""

    def __init__(
        self,
        device: Device,
        engines: Engines,
        manifest: Manifest,
        options: Options,
        settings: Settings,
        use_graphs: bool,
        words_per_point: int,
    ) -> None:
        self._device = device
        self._manifest, self._options, self._settings = manifest, options, settings
        self._use_graphs = use_graphs
        self._words_per_point = words_per_point
        self._capacity = 0  # words of mask bits
        self._wide_index = engines.decoder.inputs["image_index"] == np.int64
        self._engines = engines
        self._compute, self._copy = device.stream(), device.stream()
        self._prompter = engines.prompter.execution(self._compute.handle)
        self._encoder = engines.encoder.execution(self._compute.handle)
        self._decoder = engines.decoder.execution(self._compute.handle)
        self._uploaded = [device.event(), device.event()]
        self._planned, self._computed, self._downloaded = device.event(), device.event(), device.event()
        self._graphs: dict[tuple[Any, ...], Graph] = {}
        self._memory = Memory(device, partial(let_go, (self._compute, self._copy), self._graphs))
        self._ran: set[tuple[Any, ...]] = set()
        self._marks: list[tuple[str, Any]] = []
        self._events: list[Any] = []

    def predict(self, frame: Frame) -> Nuclei:
        """The nuclei of an image that :meth:`begin` has sent on its way."""
        started = perf_counter()
        self._marks.clear()
        self._mark("")
        self._compute.wait_for_event(self._uploaded[frame.slot])
        prompts = self._assign(frame, self._find_points(frame))
        if not prompts.points:
            self._compute.synchronize()
            return self._nuclei(frame, np.zeros(0, NUCLEUS), np.zeros(0, np.uint32), started)
        batches = window_batches(
            prompts.starts,
            self._options.window_batch,
            self._options.prompt_batch,
            [self._settings.negatives, 0] if self._settings.negatives else [0],
        )
        self._capacity = max(self._capacity, prompts.points * self._words_per_point)
        while True:
            records = self._decode(frame, prompts, batches)
            found, words, wanted = self._resolve(frame, prompts, records)
            if wanted <= self._capacity:
                break
            self._capacity = wanted  # masks larger than thought: once more, with room for all
        rows = self._download("nuclei", found * NUCLEUS.itemsize, self._at("nuclei"))
        bits = self._download("words", words * 4, self._at("visible"))
        self._wait_for_copies()
        return self._nuclei(frame, as_array(rows, found, NUCLEUS), as_array(bits, words, np.uint32), started)

    def settle(self) -> None:
        """Wait for everything that this lane has put on its streams."""
        self._compute.synchronize()
        self._copy.synchronize()

    # -- to the GPU ------------------------------------------------------------------------------------------------

    def begin(self, rgb: Pixels, slot: int = 0) -> Frame:
        """Send an image to the GPU, while it may still work on the one in the other slot."""
        shape = (rgb.shape[0], rgb.shape[1])
        masking, options = self._manifest.masking, self._options
        tiles = macro_tiles(shape, options.macro_tile, options.macro_margin)
        origins = windows(shape, masking.window, self._settings.overlap)
        views = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (tile.view for tile in tiles)]
        # The windows' table is at the same place for every image, since graphs have its address.
        plan = np.concatenate([np.array(shape), np.ravel(origins), np.ravel(views)]).astype(np.int32)
        frame_at = self._at(f"plan{slot}", plan.nbytes)
        frame = Frame(
            slot=slot,
            shape=shape,
            tiles=tiles,
            origins=origins,
            image=self._at(f"image{slot}", rgb.nbytes),
            frame=frame_at,
            views=frame_at + 8 + 8 * len(origins),
            origins_at=frame_at + 8,
        )
        # The last image of this slot has been waited for, so its staging memory is free.
        self._upload(f"image{slot}", rgb, frame.image)
        self._upload(f"plan{slot}", plan, frame.frame)
        self._uploaded[slot].record(self._copy)
        return frame

    # -- points ----------------------------------------------------------------------------------------------------

    def _find_points(self, frame: Frame) -> tuple[int, int]:
        """Candidates of all tiles, and point NMS; returns how many candidates there may be, and the head's address."""
        spacing, settings = self._manifest.prompting.anchor_spacing, self._settings
        grids = [_grid(tile, spacing) for tile in frame.tiles]
        most = sum(rows * columns for rows, columns in grids)
        head = self._at("head", 4 * (2 + len(frame.origins)))  # how many points, then the windows' first prompts
        found = self._points_at("found", most)
        kept = self._points_at("kept", most)
        count = self._at("found.count", 4)
        self._device.fill(self._compute, count, 0, 4)
        self._device.fill(self._compute, head, 0, 4)
        for index, (tile, grid) in enumerate(zip(frame.tiles, grids, strict=True)):
            self._propose_points(frame, index, tile, grid, found, count)

        height, width = frame.shape
        side = max(settings.nms_radius * 1.001, 8.0)
        columns, rows = int((width - 1) / side) + 1, int((height - 1) / side) + 1
        cells = rows * columns
        counts, first = self._at("cells", 4 * cells), self._at("cells.first", 4 * (cells + 1))
        members, state = self._at("cells.members", 4 * most), self._at("found.state", 4 * most)
        self._device.fill(self._compute, counts, 0, 4 * cells)
        self._device.fill(self._compute, state, 0, 4 * most)
        coords, kinds, scores = found
        self._launch("count_cells", BLOCKS, THREADS, coords, count, side, columns, counts)
        self._launch("scan_counts", 1, ONE_BLOCK, counts, cells, first)
        self._launch("fill_cells", BLOCKS, THREADS, coords, count, side, columns, first, counts, members)
        self._launch("settle_points", 1, ONE_BLOCK, coords, scores, count, float(settings.nms_radius), side, columns,
                     rows, first, members, state)  # fmt: skip
        self._launch("compact_points", 1, ONE_BLOCK, coords, kinds, scores, state, count, 0, *kept, head)
        self._mark("points")
        return most, head

    def _propose_points(
        self, frame: Frame, index: int, tile: MacroTile, grid: tuple[int, int], found: tuple[int, int, int], count: int
    ) -> None:
        """What the prompter makes of one tile, put behind the candidates that are there."""
        prompting, settings = self._manifest.prompting, self._settings
        x0, y0, x1, y1 = tile.view
        padded = padded_shape((y1 - y0, x1 - x0), prompting.pad_multiple)
        image = self._at("prompter.image", 12 * padded[0] * padded[1])
        self._normalise(frame, frame.views + 16 * index, 1, padded, image)
        self._mark("prepare")
        outputs = self._prompter.prepare({"image": (1, 3, *padded)})
        at = self._tensors("prompter", outputs, self._engines.prompter.outputs)
        self._prompter.run({"image": image, **at})
        self._mark("prompter")
        rows, columns = grid
        raw = [self._at(f"raw.{name}", size * rows * columns) for name, size in _POINT_SIZES.items()]
        keep = self._at("raw.keep", 4 * rows * columns)
        self._launch("decode_anchors", BLOCKS, THREADS, at["points"], at["class_logits"], at["region_logits"], rows,
                     columns, padded[1] // prompting.anchor_spacing, outputs["class_logits"][-1], padded[1], x0, y0,
                     x1 - x0, y1 - y0, *tile.core, settings.sensitivity, settings.score_threshold,
                     int(settings.region_filter), *raw, keep)  # fmt: skip
        self._launch("compact_points", 1, ONE_BLOCK, *raw, keep, 0, rows * columns, *found, count)
        self._mark("points")

    def _assign(self, frame: Frame, candidates: tuple[int, int]) -> Prompts:
        """Which window decodes which point; the host gets how many prompts each has."""
        most, head = candidates
        coords, kinds, scores = self._points_at("kept", most)
        window, everywhere = self._manifest.masking.window, int(self._options.assignment == "all")
        central, counts = self._at("central", 4 * most), self._at("window.counts", 4 * len(frame.origins))
        self._launch("find_central_windows", BLOCKS, THREADS, coords, head, frame.origins_at, len(frame.origins),
                     window, frame.frame, central)  # fmt: skip
        self._launch("count_prompts", len(frame.origins), THREADS, coords, head, frame.origins_at, window, central,
                     everywhere, counts)  # fmt: skip
        self._launch("scan_counts", 1, ONE_BLOCK, counts, len(frame.origins), head + 4)
        self._mark("points")
        self._computed.record(self._compute)
        self._copy.wait_for_event(self._computed)
        numbers = self._download("head", 4 * (2 + len(frame.origins)), head)
        self._wait_for_copies()
        points, *_ = starts = as_array(numbers, 2 + len(frame.origins), np.int32).copy()
        return Prompts(int(points), starts[1:], coords, kinds, scores, head, central)

    # -- masks -----------------------------------------------------------------------------------------------------

    def _decode(self, frame: Frame, prompts: Prompts, batches: list[WindowBatch]) -> int:
        """Every mask of every point as a record; returns how many."""
        masking, options = self._manifest.masking, self._options
        total = int(prompts.starts[-1])
        points, holders = self._at("prompt.points", 4 * total), self._at("prompt.windows", 4 * total)
        self._launch("list_prompts", len(frame.origins), THREADS, prompts.coords, prompts.count, frame.origins_at,
                     masking.window, prompts.central, int(options.assignment == "all"), frame_starts(prompts), points,
                     holders)  # fmt: skip
        records = sum(call.count for batch in batches for call in batch.calls)
        # All memory is at its place before anything is captured.
        for name, size in _RECORD_SIZES.items():
            self._at(f"record.{name}", size * records)
        self._at("bits", 4 * self._capacity)
        pool = self._at("pool", 4)
        self._device.fill(self._compute, pool, 0, 4)
        width = options.window_batch
        tables = [self._views(frame, batch).ravel() for batch in batches]
        tables += [job_rows(batch, width).ravel() for batch in batches]
        offsets = np.cumsum([0, *(table.nbytes for table in tables)])
        table_at = self._at("table", int(offsets[-1]))
        self._upload("table", np.concatenate(tables), table_at)
        self._planned.record(self._copy)
        self._compute.wait_for_event(self._planned)
        for index, batch in enumerate(batches):
            views, job = self._at("views", 16 * width), self._at("job", 4 * (4 + width))
            self._device.copy(self._compute, views, table_at + int(offsets[index]), 16 * batch.places)
            self._run(("encoder", frame.slot, batch.places), partial(self._encode, frame, batch.places, views))
            self._mark("encoder")
            for number, call in enumerate(batch.calls):
                row = table_at + int(offsets[len(batches) + index]) + number * 4 * (4 + width)
                self._device.copy(self._compute, job, row, 4 * (4 + width))
                self._run(
                    ("decoder", frame.slot, batch.places, call.places, call.negatives, self._capacity),
                    partial(self._decode_call, frame, prompts, batch.places, call.places, call.negatives, job),
                )
                self._mark("decoder")
        return records

    def _views(self, frame: Frame, batch: WindowBatch) -> NDArray[np.int32]:
        """(places, 4): what each window of a batch sees of the image; nothing in places without a window."""
        window = self._manifest.masking.window
        views = np.zeros((batch.places, 4), np.int32)
        origins = frame.origins[batch.windows]
        views[: len(origins), :2] = origins
        views[: len(origins), 2:] = np.minimum(np.array(frame.shape[::-1]) - origins, window)
        return views

    def _encode(self, frame: Frame, places: int, views: int) -> None:
        window = self._manifest.masking.window
        shape = (places, 3, window, window)
        image = self._at("encoder.image", 4 * prod(shape))
        self._normalise(frame, views, places, (window, window), image)
        features = self._tensors("encoder", self._encoder.prepare({"image": shape}), self._engines.encoder.outputs)
        self._encoder.run({"image": image, **features})

    def _decode_call(
        self, frame: Frame, prompts: Prompts, windows_: int, places: int, negatives: int, job: int
    ) -> None:
        masking, engines, window = self._manifest.masking, self._engines, self._manifest.masking.window
        features = self._encoder.prepare({"image": (windows_, 3, window, window)})
        wanted: dict[str, Shape] = {name: shape for name, shape in features.items() if name in engines.decoder.inputs}
        at = self._tensors("encoder", wanted, engines.encoder.outputs)
        own: dict[str, Shape] = {
            "point_coords": (places, 1 + negatives, 2),
            "point_labels": (places, 1 + negatives),
            "image_index": (places,),
        }
        at |= self._tensors("decoder", own, engines.decoder.inputs)
        outputs = self._decoder.prepare({**wanted, **own})
        at |= self._tensors("decoder", outputs, engines.decoder.outputs)
        index = at["image_index"]
        points, holders = self._at("prompt.points"), self._at("prompt.windows")
        record = {name: self._at(f"record.{name}") for name in _RECORD_SIZES}
        bits, pool = self._at("bits"), self._at("pool")
        self._launch("point_prompts", -(-places // 128), 128, prompts.coords, prompts.count, frame.origins_at, window,
                     points, holders, job, places, negatives, at["point_coords"], at["point_labels"],
                     index if self._wide_index else 0, 0 if self._wide_index else index)  # fmt: skip
        self._decoder.run(at)
        size = outputs["mask_logits"][-1]
        self._launch("box_masks", places, THREADS, at["mask_logits"], at["iou"], size, window, masking.border, job,
                     frame.frame, frame.origins_at, points, holders, record["points"], record["ious"], record["boxes"],
                     record["words"])  # fmt: skip
        self._launch("place_masks", 1, THREADS, job, self._capacity, record["words"], record["offsets"], pool)
        self._launch("write_masks", places, THREADS, at["mask_logits"], size, window, job, frame.origins_at, holders,
                     record["boxes"], record["words"], record["offsets"], bits)  # fmt: skip

    def _resolve(self, frame: Frame, prompts: Prompts, records: int) -> tuple[int, int, int]:
        """The best mask of each point, box NMS, painting; how many nuclei and words there are, and words wanted."""
        settings, device, n = self._settings, self._device, prompts.points
        record = {name: self._at(f"record.{name}") for name in _RECORD_SIZES}
        bits, scratch = self._at("bits"), [self._at(f"bits.{i}", 4 * self._capacity) for i in range(3)]
        best, chosen, ious = self._at("best", 8 * n), self._at("chosen", 4 * n), self._at("chosen.ious", 4 * n)
        count, totals = self._at("chosen.count", 4), self._at("totals", 12)
        device.fill(self._compute, best, 0, 8 * n)
        self._launch(
            "match_duplicates", BLOCKS, THREADS, record["points"], record["ious"], record["words"], records, best
        )
        self._launch("choose_masks", 1, ONE_BLOCK, best, record["ious"], n, settings.iou_threshold, chosen, ious, count)

        def tidy(mode: int) -> None:
            self._launch("tidy_masks", n, THREADS, chosen, count, record["offsets"], mode, record["boxes"],
                         record["words"], bits, *scratch)  # fmt: skip

        if settings.tidy:
            tidy(LARGEST_FILLED)
        rank, order, keep = self._at("rank", 4 * n), self._at("order", 4 * n), self._at("keep", 4 * n)
        row = -(-n // 64)
        conflicts, removed = self._at("conflicts", 8 * n * row), self._at("removed", 8 * row)
        self._launch("rank_values", -(-n // 256), 256, ious, count, rank, order)
        self._launch("find_conflicts", (row, row), 64, record["boxes"], chosen, order, count, settings.nms_iou, row,
                     conflicts)  # fmt: skip
        device.fill(self._compute, removed, 0, 8 * row)
        self._launch("reduce_conflicts", 1, THREADS, conflicts, order, count, row, removed, keep)

        canvas = self._at("canvas", 4 * prod(frame.shape))
        device.fill(self._compute, canvas, UNPAINTED, 4 * prod(frame.shape))
        painted = (record["boxes"], record["words"], record["offsets"], bits, frame.frame, canvas)
        self._launch("paint_masks", n, THREADS, chosen, keep, rank, count, *painted)
        self._launch("uncover_masks", n, THREADS, chosen, keep, rank, count, *painted)
        tidy(LARGEST if settings.tidy else TIGHTEN)
        rows, starts = self._at("nuclei.rows", 4 * n), self._at("nuclei.starts", 4 * n)
        nuclei, visible = self._at("nuclei", NUCLEUS.itemsize * n), self._at("visible", 4 * self._capacity)
        self._launch("order_nuclei", 1, ONE_BLOCK, chosen, order, count, record["words"], rows, starts, totals)
        self._launch("emit_nuclei", n, THREADS, chosen, count, rows, starts, record["points"], record["ious"],
                     record["boxes"], record["words"], record["offsets"], bits, prompts.coords, prompts.kinds,
                     prompts.scores, nuclei, visible)  # fmt: skip
        device.copy(self._compute, totals + 8, self._at("pool"), 4)
        self._mark("masks")
        self._computed.record(self._compute)
        self._copy.wait_for_event(self._computed)
        numbers = self._download("totals", 12, totals)
        self._wait_for_copies()
        found, words, wanted = as_array(numbers, 3, np.int32).tolist()
        return found, words, wanted

    def _nuclei(self, frame: Frame, rows: NDArray[Any], words: NDArray[np.uint32], started: float) -> Nuclei:
        """What came from the GPU, as the result."""
        return Nuclei(
            shape=frame.shape,
            points=rows["point"].copy(),
            classes=rows["kind"].astype(np.int64),
            scores=rows["score"].copy(),
            ious=rows["iou"].copy(),
            boxes=rows["box"].copy(),
            masks=tuple(unpack_mask(words[row["start"] :], row["box"]) for row in rows),
            class_table=self._manifest.class_table,
            timings=self._timings() | {"total": perf_counter() - started},
        )

    # -- the small verbs -------------------------------------------------------------------------------------------

    def _at(self, name: str, nbytes: int | None = None) -> int:
        return self._memory.at(name, nbytes)

    def _upload(self, name: str, values: NDArray[Any], address: int) -> None:
        staging = self._memory.staging(f"to.{name}", values.nbytes)
        np.copyto(staging.view(values.dtype).reshape(values.shape), values)
        self._device.upload(self._copy, address, staging)

    def _download(self, name: str, nbytes: int, address: int) -> NDArray[np.uint8]:
        """Page-locked memory that holds the values once :meth:`_wait_for_copies` returns."""
        staging = self._memory.staging(f"from.{name}", nbytes)
        if nbytes:
            self._device.download(self._copy, staging, address)
        return staging

    def _wait_for_copies(self) -> None:
        self._downloaded.record(self._copy)
        self._downloaded.synchronize()

    def _launch(self, name: str, grid: int | tuple[int, int], block: int, *arguments: Any) -> None:
        self._device.launch(self._compute, name, grid, block, *arguments)

    def _run(self, key: tuple[Any, ...], put: Callable[[], None]) -> None:
        """Put something on the stream that comes again and again; from its second time on it is a graph.

        TensorRT has to have run a shape right before it is captured, since it prepares itself for one when it first
        runs it after another; so this time, too, it runs plainly, and the graph is for the times to come.
        """
        if key in self._graphs:
            self._device.replay(self._compute, self._graphs[key])
            return
        put()
        if self._use_graphs and key in self._ran:
            with self._device.capture(self._compute) as graph:
                put()
            self._graphs[key] = graph
        self._ran.add(key)

    def _normalise(self, frame: Frame, views: int, count: int, size: tuple[int, int], out: int) -> None:
        norm = self._manifest.normalisation
        blocks = min(-(-prod(size) // THREADS), 1024)
        self._launch("normalise_windows", (blocks, count), THREADS, frame.image, frame.frame, views, *size, *norm.mean,
                     *norm.std, out)  # fmt: skip

    def _tensors(self, network: str, shapes: Mapping[str, Shape], types: Mapping[str, np.dtype[Any]]) -> dict[str, int]:
        """Addresses of a network's tensors."""
        return {
            name: self._at(f"{network}.{name}", prod(shape) * types[name].itemsize) for name, shape in shapes.items()
        }

    def _points_at(self, name: str, most: int) -> tuple[int, int, int]:
        """Addresses of points' coordinates, classes and scores."""
        coords, kinds, scores = (self._at(f"{name}.{part}", size * most) for part, size in _POINT_SIZES.items())
        return coords, kinds, scores

    def _mark(self, stage: str) -> None:
        """The end of a stage on the compute stream."""
        while len(self._events) <= len(self._marks):
            self._events.append(self._device.event())
        event = self._events[len(self._marks)]
        event.record(self._compute)
        self._marks.append((stage, event))

    def _timings(self) -> dict[str, float]:
        """Seconds of each stage on the compute stream."""
        seconds = dict.fromkeys(STAGES, 0.0)
        for (_, before), (stage, event) in zip(self._marks, self._marks[1:], strict=False):
            seconds[stage] += event.time_since(before) * 1e-3
        return seconds


_POINT_SIZES = {"coords": 8, "kinds": 4, "scores": 4}
_RECORD_SIZES = {"points": 4, "ious": 4, "boxes": 16, "words": 4, "offsets": 4}


def let_go(streams: tuple[Any, ...], graphs: dict[tuple[Any, ...], Graph]) -> None:
    """Before memory goes: what still runs may use it, and graphs have its address.

    No method of the lane, which would then live on in its own memory.
    """
    for stream in streams:
        stream.synchronize()
    graphs.clear()


def frame_starts(prompts: Prompts) -> int:
    """Address of the windows' first prompts: they stand behind the number of points."""
    return prompts.count + 4


def unpack_mask(words: NDArray[np.uint32], box: NDArray[np.int32]) -> Mask:
    """The mask of a box from rows of whole words, the lowest bit first."""
    width, height = int(box[2] - box[0]), int(box[3] - box[1])
    row = -(-width // 32)
    bits = np.unpackbits(
        words[: row * height].view(np.uint8).reshape(height, -1), axis=1, count=width, bitorder="little"
    )
    return bits.astype(np.bool_)


def _grid(tile: MacroTile, spacing: int) -> tuple[int, int]:
    """Rows and columns of the anchors that a tile has of its own."""
    x0, y0, x1, y1 = tile.view
    return -(-(y1 - y0) // spacing), -(-(x1 - x0) // spacing)
