"""One prediction at a time on a GPU, and the order of what runs.

The host waits three times an image: for how many prompts each window has (from which the networks' batches follow),
for how many nuclei there are, and for the nuclei.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import Manifest
from pnseg_runtime.clock import never
from pnseg_runtime.cuda.driver import Device, as_array
from pnseg_runtime.cuda.engines import Engines
from pnseg_runtime.cuda.frame import Frame, Rules, send
from pnseg_runtime.cuda.painting import NUCLEUS, paint, unpack_masks
from pnseg_runtime.cuda.plan import window_batches
from pnseg_runtime.cuda.points import PointFinder
from pnseg_runtime.cuda.records import MaskDecoder
from pnseg_runtime.cuda.streams import Streams
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.softening import Seen

#: Words of mask bits that a point is thought to need: 64 × 64 px. If they do not do, more are taken.
WORDS_PER_POINT = 128


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
        self._device, self._engines, self._use_graphs = device, engines, use_graphs
        self._rules = Rules(manifest, options, settings)
        self._words_per_point = words_per_point
        self._open()

    def _open(self) -> None:
        self._capacity = 0  # words of mask bits
        self._streams = Streams(self._device, self._use_graphs)
        self._points = PointFinder(self._streams, self._rules, self._engines.prompter)
        self._masks = MaskDecoder(self._streams, self._rules, self._engines)

    def begin(self, seen: Seen, slot: int = 0, everywhere: bool = False) -> Frame:
        """Send an image to the GPU, while it may still work on the one in the other slot.

        Args:
            seen: the image as the two networks see it.
            slot: 0 or 1.
            everywhere: take every anchor for a nucleus, to warm up.
        """
        return send(self._streams, self._rules, seen, slot, everywhere)

    def predict(self, frame: Frame, cancelled: Callable[[], bool] = never) -> Nuclei:
        """The nuclei of an image that :meth:`begin` has sent on its way; ``cancelled`` is asked before more is begun.

        Raises:
            PredictionCancelledError: as ``cancelled`` said; what is on the streams is to be waited for.
        """
        started = perf_counter()
        streams, options, settings = self._streams, self._rules.options, self._rules.settings
        streams.restart()
        streams.wait_for_upload(streams.uploaded[frame.slot])
        prompts = self._points.find(frame)
        if not prompts.points:
            streams.finish()
            return self._nuclei(frame, np.zeros(0, NUCLEUS), np.zeros(0, np.uint32), started)
        negatives = [settings.negatives, 0] if settings.negatives else [0]
        batches = window_batches(prompts.starts, options.window_batch, options.prompt_batch, negatives)
        self._capacity = max(self._capacity, roomy(prompts.points * self._words_per_point))
        while True:
            records = self._masks.decode(frame, prompts, batches, self._capacity, cancelled)
            found, words, wanted = paint(streams, self._rules, frame, prompts, records, self._capacity)
            if wanted <= self._capacity:
                break
            self._capacity = roomy(wanted)  # masks larger than thought: once more, with room for all
        rows = streams.download("nuclei", found * NUCLEUS.itemsize, streams.at("nuclei"))
        bits = streams.download("words", words * 4, streams.at("visible"))
        streams.wait_for_copies()
        return self._nuclei(frame, as_array(rows, found, NUCLEUS), as_array(bits, words, np.uint32), started)

    def settle(self) -> None:
        """Wait for everything that this lane has put on its streams."""
        self._streams.settle()

    def start_over(self) -> None:
        """Let go of all memory, graphs and execution contexts: what an image needed for which there was not enough.

        Raises:
            BackendError: the GPU is beyond that.
        """
        self._streams.forget()  # the error that led here still holds them
        self._open()

    def _nuclei(self, frame: Frame, rows: NDArray[Any], words: NDArray[np.uint32], started: float) -> Nuclei:
        """What came from the GPU, as the result."""
        return Nuclei(
            shape=frame.shape,
            points=rows["point"].copy(),
            classes=rows["kind"].astype(np.int64),
            scores=rows["score"].copy(),
            ious=rows["iou"].copy(),
            boxes=rows["box"].copy(),
            masks=unpack_masks(rows, words),
            class_table=self._rules.manifest.class_table,
            timings=self._streams.timings() | {"total": perf_counter() - started},
        )


def roomy(words: int) -> int:
    """The next power of two: graphs hold for one capacity, and images of ever more points would have ever new ones."""
    return 1 << max(words - 1, 0).bit_length()
