"""Image → nuclei with everything on the GPU: the twin of :class:`pnseg_runtime.segmenter.Segmenter`.

Points, prompts and masks stay on the GPU until the nuclei are complete; before that the host learns only how many
there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import get_args

import numpy as np

from pnseg_runtime.bundle import Bundle, GraphName
from pnseg_runtime.clock import go_on_unless, never
from pnseg_runtime.cuda.driver import Device, at_last
from pnseg_runtime.cuda.engines import Engines, largest_shapes
from pnseg_runtime.cuda.fitting import open_engines
from pnseg_runtime.cuda.frame import Frame
from pnseg_runtime.cuda.lane import WORDS_PER_POINT, Lane
from pnseg_runtime.errors import BackendError, ImageError
from pnseg_runtime.jobs import CLOSED, Job, Jobs, require_own_process
from pnseg_runtime.limits import Limits
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.pixels import Pixels, check_image
from pnseg_runtime.rescale import Rescaling
from pnseg_runtime.sessions import CUDA, default_precision, require_engines
from pnseg_runtime.softening import Blurs, Seen, see

#: What the kernel of nearest negatives is made for.
MOST_NEGATIVES = 4


class DeviceSegmenter:
    """A bundle that is ready to predict on a GPU; any number of threads may use it.

    Each prediction that runs takes a lane (streams, memory, executions of the networks); there are as many as were
    ever needed at once.

    Attributes:
        backend: ``"cuda"``.
        precision: what the engines compute in.
        reason: why it is this backend, one sentence.
        passed_over: of ``auto``: why each backend that was tried does not work, a sentence each.
        words_per_point: memory that new lanes take for the masks' bits at first, 32 px each, for every point.
    """

    backend = CUDA

    def __init__(
        self,
        bundle: Bundle,
        options: Options | None = None,
        device: Device | None = None,
        engines: Engines | None = None,
        use_graphs: bool = True,
    ) -> None:
        """Open a bundle's networks on a GPU.

        Args:
            bundle: an opened bundle.
            options: choices other than the defaults.
            device: the GPU, the first one if None.
            engines: networks that are already open, in place of the bundle's engines.
            use_graphs: whether what runs again and again is recorded as CUDA graphs.

        Raises:
            BackendError: the GPU, its driver or libraries are missing, or no engine of the bundle fits them.
            BundleError: the bundle has no engines.
        """
        self.manifest = bundle.manifest
        self.options = options or Options()
        self.settings = Settings.of(bundle.manifest, self.options)
        if self.settings.negatives > MOST_NEGATIVES:
            raise BackendError(
                f"On the GPU a prompt takes up to {MOST_NEGATIVES} negatives, not {self.settings.negatives}; "
                "choose fewer, or another backend."
            )
        if self.options.tta or self.options.tta_points:
            raise BackendError("The GPU path has no test-time augmentation; leave it out, or choose another backend.")
        self.precision = self.options.precision or default_precision(CUDA, bundle.manifest)
        self.reason = f"{CUDA} was asked for."
        self.passed_over: tuple[str, ...] = ()
        if engines is None:
            require_engines(bundle)
        self.device = device or Device()
        self.words_per_point = WORDS_PER_POINT
        self._use_graphs = use_graphs
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        self._lock = Lock()
        self._closed = False
        self._process = os.getpid()
        with self.device.current():
            self._engines: Engines | None = engines or open_engines(bundle, self.device.capability, self.precision)
            check_types(self._engines)
            self.options = Limits.of(
                {name: largest_shapes(getattr(self._engines, name).profiles) for name in get_args(GraphName)}
            ).within(self.options)
        self._jobs: Jobs[Nuclei] = Jobs(self.options.workers, self.options.queue)

    def __enter__(self) -> DeviceSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def explained(self, reason: str, passed_over: tuple[str, ...]) -> DeviceSegmenter:
        """Say why it is this path, and why others are not; returns the segmenter."""
        self.reason, self.passed_over = reason, passed_over
        return self

    def close(self) -> None:
        """Let go of the networks and of the GPU's memory; the segmenter cannot predict any more.

        Jobs that wait are called off, those that run come to their end first.
        """
        self._jobs.close()
        self._closed = True
        self._let_go()

    def __del__(self) -> None:
        # In a thread that has not opened it, PyCUDA would keep the memory, and say nothing.
        with suppress(Exception):
            self._let_go()

    def _let_go(self) -> None:
        with self.device.current():
            self._drop_lanes()
            self._engines = None

    def predict(
        self,
        rgb: Pixels,
        mpp: float | None = None,
        cancelled: Callable[[], bool] = never,
        guessed: bool = False,
    ) -> Nuclei:
        """Find every nucleus of an image and outline it (§3.3).

        Args:
            rgb: (H, W, 3) uint8, of any size from 1×1.
            mpp: microns per pixel, None if unknown; see :meth:`pnseg_runtime.segmenter.Segmenter.predict`.
            cancelled: asked before the image goes to the GPU and whenever more is put on its streams; what is
                there already comes to its end.
            guessed: whether ``mpp`` is a guess; see there.

        Raises:
            ImageError: the array is not such an image, or has too many pixels at the model's resolution.
            BackendError: the GPU fails, or the segmenter is closed.
            PredictionCancelledError: as ``cancelled`` said.
        """
        rescaling = Rescaling.between(check_image(rgb), mpp, self.manifest.mpp)
        seen = see(rescaling.image(rgb), Blurs.of(self.settings, 1.0 if guessed else rescaling.enlargement))
        with self._lane() as lane, self.device.current():
            go_on_unless(cancelled)
            nuclei = lane.predict(lane.begin(seen), cancelled)
        return rescaling.back(nuclei, self.settings.tidy)

    def submit(self, rgb: Pixels, mpp: float | None = None, timeout: float | None = None) -> Job[Nuclei]:
        """Predict in the background; see :meth:`pnseg_runtime.segmenter.Segmenter.submit`.

        Raises:
            ImageError, QueueFullError, BackendError: as there.
        """
        check_image(rgb)
        return self._jobs.submit(lambda cancelled: self.predict(rgb, mpp, cancelled), timeout)

    def warm_up(self, shape: tuple[int, int] | None = None) -> None:
        """Predict a black image full of points, so that the first one does not pay for what is done only once.

        Args:
            shape: (height, width) of the images to come, px; a window's if None.

        Raises:
            BackendError: the GPU fails, or the segmenter is closed.
        """
        window = self.manifest.masking.window
        black = np.zeros((*(shape or (window, window)), 3), np.uint8)
        with self._lane() as lane, self.device.current():
            lane.predict(lane.begin(Seen.alike(black), everywhere=True))

    def predict_many(self, images: Iterable[Pixels], mpp: float | None = None) -> Iterator[Nuclei]:
        """Predict one image after another, in order; the next one travels to the GPU meanwhile.

        Raises:
            ImageError, BackendError: as :meth:`predict`, when it is that image's turn; the images behind it are
                not predicted.
        """
        with self._lane() as lane:
            under_way: tuple[Frame, Rescaling] | None = None
            for number, rgb in enumerate(images):
                try:
                    rescaling = Rescaling.between(check_image(rgb), mpp, self.manifest.mpp)
                except ImageError:
                    if under_way:  # it is the turn of the image before
                        yield self._done(lane, *under_way)
                    raise
                seen = see(rescaling.image(rgb), Blurs.of(self.settings, rescaling.enlargement))
                with self.device.current():
                    following = lane.begin(seen, number % 2)
                    nuclei = lane.predict(under_way[0]) if under_way else None
                if under_way and nuclei is not None:
                    yield under_way[1].back(nuclei, self.settings.tidy)
                under_way = following, rescaling
            if under_way:
                yield self._done(lane, *under_way)

    def _done(self, lane: Lane, frame: Frame, rescaling: Rescaling) -> Nuclei:
        with self.device.current():
            nuclei = lane.predict(frame)
        return rescaling.back(nuclei, self.settings.tidy)

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A lane of one's own for the time being."""
        require_own_process(self._process)
        if self._closed or (engines := self._engines) is None:
            raise BackendError(CLOSED)
        try:
            lane = self._lanes.get_nowait()
        except Empty:
            with self._lock, self.device.current():
                lane = Lane(
                    self.device,
                    engines,
                    self.manifest,
                    self.options,
                    self.settings,
                    self._use_graphs,
                    self.words_per_point,
                )
        try:
            with at_last(partial(self._settle, lane)):
                yield lane
        except BackendError:
            # With what it has kept of an image that was too large, say, it would fail for ever.
            with suppress(BackendError):
                self._give_back(lane, starts_over=True)
            raise
        except BaseException:
            self._give_back(lane)
            raise
        self._give_back(lane)

    def _settle(self, lane: Lane) -> None:
        with self.device.current():
            lane.settle()  # whatever happened, nothing of it runs on

    def _give_back(self, lane: Lane, starts_over: bool = False) -> None:
        with self.device.current():
            if starts_over:
                lane.start_over()
            self._lanes.put(lane)
            del lane
            if self._is_closed():
                self._drop_lanes()

    def _is_closed(self) -> bool:
        return self._closed

    def _drop_lanes(self) -> None:
        while not self._lanes.empty():
            with suppress(Empty):
                self._lanes.get_nowait()


def check_types(engines: Engines) -> None:
    """Whether the kernels can read what the engines write, and the other way round.

    Raises:
        BackendError: an engine whose inputs or outputs have other element types.
    """
    for network, tensors in _TENSORS.items():
        engine = getattr(engines, network)
        for name in tensors:
            kind = (engine.inputs | engine.outputs).get(name)
            allowed = (np.int64, np.int32) if name == "image_index" else (np.float32,)
            if kind is None or kind not in allowed:
                raise BackendError(
                    f"The {network} engine has {name} as {kind}, where the kernels need {np.dtype(allowed[0])}; "
                    "build the engines of this bundle again."
                )


_TENSORS = {
    "prompter": ("image", "points", "class_logits", "region_logits"),
    "encoder": ("image",),
    "decoder": ("point_coords", "point_labels", "image_index", "mask_logits", "iou"),
}
