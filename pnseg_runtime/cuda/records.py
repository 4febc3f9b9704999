"""Encoder, decoder and everything up to records of masks on the GPU: decoded once, in the windows' batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.clock import go_on_unless, never
from pnseg_runtime.cuda.engines import Engines, Shape
from pnseg_runtime.cuda.frame import Frame, Rules, normalise
from pnseg_runtime.cuda.plan import WindowBatch, job_rows
from pnseg_runtime.cuda.points import Prompts
from pnseg_runtime.cuda.streams import THREADS, Streams

_SIZES = {"points": 4, "ious": 4, "boxes": 16, "words": 4, "offsets": 4}  # bytes a record


def record_addresses(streams: Streams) -> dict[str, int]:
    """Where :class:`MaskDecoder` has left the records: of each its point, IoU, box, number of words and first word."""
    return {name: streams.at(f"record.{name}") for name in _SIZES}


class MaskDecoder:
    """From prompts to masks: each a record, and its bits in one pool."""

    def __init__(self, streams: Streams, rules: Rules, engines: Engines) -> None:
        self._streams, self._rules, self._engines = streams, rules, engines
        self._encoder = engines.encoder.execution(streams.compute.handle, streams.scratch, captured=True)
        self._decoder = engines.decoder.execution(streams.compute.handle, streams.scratch, captured=True)
        self._features: dict[int, dict[str, Shape]] = {}  # windows → shapes of what the encoder makes of them
        self._wide_index = engines.decoder.inputs["image_index"] == np.int64

    def decode(
        self,
        frame: Frame,
        prompts: Prompts,
        batches: list[WindowBatch],
        capacity: int,
        cancelled: Callable[[], bool] = never,
    ) -> int:
        """Every mask of every point as a record; returns how many.

        Args:
            frame: the image.
            prompts: its points.
            batches: what the networks are called with.
            capacity: words of mask bits that there is room for; the pool's count may go beyond it.
            cancelled: asked before every batch of windows.

        Raises:
            PredictionCancelledError: as ``cancelled`` said.
        """
        streams, masking, options = self._streams, self._rules.manifest.masking, self._rules.options
        total = int(prompts.starts[-1])
        points, holders = streams.at("prompt.points", 4 * total), streams.at("prompt.windows", 4 * total)
        streams.launch("list_prompts", len(frame.origins), THREADS, prompts.coords, prompts.count, frame.origins_at,
                       masking.window, prompts.central, int(options.assignment == "all"), prompts.starts_at, points,
                       holders)  # fmt: skip
        records = sum(call.count for batch in batches for call in batch.calls)
        # All memory is at its place before anything is captured.
        for name, size in _SIZES.items():
            streams.at(f"record.{name}", size * records)
        streams.at("bits", 4 * capacity)
        pool = streams.at("pool", 4)
        streams.fill(pool, 0, 4)
        width = options.window_batch
        tables = [self._views(frame, batch).ravel() for batch in batches]
        tables += [job_rows(batch, width).ravel() for batch in batches]
        offsets = np.cumsum([0, *(table.nbytes for table in tables)])
        table_at = streams.at("table", int(offsets[-1]))
        streams.upload("table", np.concatenate(tables), table_at)
        streams.record_upload(streams.planned)
        streams.wait_for_upload(streams.planned)
        for index, batch in enumerate(batches):
            go_on_unless(cancelled)
            views, job = streams.at("views", 16 * width), streams.at("job", 4 * (4 + width))
            streams.move(views, table_at + int(offsets[index]), 16 * batch.places)
            streams.run(("encoder", frame.slot, batch.places), partial(self._encode, frame, batch.places, views))
            streams.mark("encoder")
            for number, call in enumerate(batch.calls):
                row = table_at + int(offsets[len(batches) + index]) + number * 4 * (4 + width)
                streams.move(job, row, 4 * (4 + width))
                streams.run(
                    ("decoder", frame.slot, batch.places, call.places, call.negatives, capacity),
                    partial(self._call, frame, prompts, batch.places, call.places, call.negatives, job, capacity),
                )
                streams.mark("decoder")
        return records

    def _views(self, frame: Frame, batch: WindowBatch) -> NDArray[np.int32]:
        """(places, 4): what each window of a batch sees of the image; nothing in places without a window."""
        window = self._rules.manifest.masking.window
        views = np.zeros((batch.places, 4), np.int32)
        origins = frame.origins[batch.windows]
        views[: len(origins), :2] = origins
        views[: len(origins), 2:] = np.minimum(np.array(frame.shape[::-1]) - origins, window)
        return views

    def _encode(self, frame: Frame, places: int, views: int) -> None:
        streams, window = self._streams, self._rules.manifest.masking.window
        shape = (places, 3, window, window)
        image = streams.at("encoder.image", 4 * prod(shape))
        norm = self._rules.manifest.normalisation
        normalise(streams, frame.image, frame.frame, norm, views, places, (window, window), image)
        made = self._features[places] = self._encoder.prepare({"image": shape})
        self._encoder.run({"image": image, **streams.tensors("encoder", made, self._engines.encoder.outputs)})

    def _call(
        self, frame: Frame, prompts: Prompts, windows: int, places: int, negatives: int, job: int, capacity: int
    ) -> None:
        streams, engines, masking = self._streams, self._engines, self._rules.manifest.masking
        window = masking.window
        made = self._features[windows]  # the encoder is left as it is, for the sake of its graphs
        wanted: dict[str, Shape] = {name: shape for name, shape in made.items() if name in engines.decoder.inputs}
        at = streams.tensors("encoder", wanted, engines.encoder.outputs)
        own: dict[str, Shape] = {
            "point_coords": (places, 1 + negatives, 2),
            "point_labels": (places, 1 + negatives),
            "image_index": (places,),
        }
        at |= streams.tensors("decoder", own, engines.decoder.inputs)
        outputs = self._decoder.prepare({**wanted, **own})
        at |= streams.tensors("decoder", outputs, engines.decoder.outputs)
        index = at["image_index"]
        points, holders = streams.at("prompt.points"), streams.at("prompt.windows")
        record, bits, pool = record_addresses(streams), streams.at("bits"), streams.at("pool")
        streams.launch("point_prompts", -(-places // 128), 128, prompts.coords, prompts.count, frame.origins_at, window,
                       points, holders, job, places, negatives, at["point_coords"], at["point_labels"],
                       index if self._wide_index else 0, 0 if self._wide_index else index)  # fmt: skip
        self._decoder.run(at)
        size = outputs["mask_logits"][-1]
        streams.launch("box_masks", places, THREADS, at["mask_logits"], at["iou"], size, window, masking.border, job,
                       frame.frame, frame.origins_at, points, holders, record["points"], record["ious"],
                       record["boxes"], record["words"])  # fmt: skip
        streams.launch("place_masks", 1, THREADS, job, capacity, record["words"], record["offsets"], pool)
        streams.launch("write_masks", places, THREADS, at["mask_logits"], size, window, job, frame.origins_at, holders,
                       record["boxes"], record["words"], record["offsets"], bits)  # fmt: skip
