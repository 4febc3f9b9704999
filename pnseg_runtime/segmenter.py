"""A bundle that is ready to predict: opened once, used by any number of threads, closed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.clock import Clock, never
from pnseg_runtime.errors import BackendError
from pnseg_runtime.jobs import CLOSED, Job, Jobs, Work, require_own_process
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.pipeline import Pipeline
from pnseg_runtime.pixels import Pixels, check_image
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.rescale import Rescaling
from pnseg_runtime.sessions import Sessions, open_sessions
from pnseg_runtime.softening import Blurs, see


class Segmenter:
    """A bundle that is ready to predict; as a context manager it lets go of the networks at the end.

    One segmenter serves any number of threads. The networks take turns, since two that run at the
    same time would take each other's cores; everything else of a prediction runs beside them.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: Options | None = None,
        backend: str = "onnxruntime",
        sessions: Sessions | None = None,
        cache: bool = False,
    ) -> None:
        """Open a bundle's networks.

        Args:
            bundle: an opened bundle.
            options: choices other than the defaults.
            backend: a name in :data:`pnseg_runtime.sessions.BACKENDS`, or ``"auto"``.
            sessions: networks that are already open, in place of the backend's.
            cache: whether the backend may keep optimised graphs beside the bundle or in a cache folder.

        Raises:
            BackendError: the backend is unknown, missing or does not start.
            BundleError: a network cannot be read.
        """
        self.manifest = bundle.manifest
        self.options = options or Options()
        settings = Settings.of(bundle.manifest, self.options)
        unread = frozenset() if settings.region_filter else frozenset({"region_logits"})
        sessions = sessions or open_sessions(
            bundle, backend, self.options.threads, self.options.precision, unread, cache
        )
        if sessions.limits is not None:
            self.options = sessions.limits.within(self.options)
        self._pipeline: Pipeline | None = Pipeline(bundle.manifest, self.options, sessions)
        self._jobs: Jobs[Nuclei] = Jobs(self.options.workers, self.options.queue)
        self._process = os.getpid()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pipeline(self) -> Pipeline:
        """The steps of a prediction, for those who want some of them.

        Raises:
            BackendError: the segmenter is closed.
        """
        require_own_process(self._process)
        if (pipeline := self._pipeline) is None:
            raise BackendError(CLOSED)
        return pipeline

    @property
    def settings(self) -> Settings:
        """What holds for the predictions: the options over the bundle's manifest."""
        return self.pipeline.settings

    @property
    def sessions(self) -> Sessions:
        """The open networks; their ``backend`` and ``reason`` say what runs and why.

        Raises:
            BackendError: the segmenter is closed.
        """
        return self.pipeline.sessions

    @property
    def backend(self) -> str:
        """Name of the backend that runs the networks."""
        return self.sessions.backend

    @property
    def precision(self) -> str:
        """What the networks compute in."""
        return self.sessions.precision

    @property
    def reason(self) -> str:
        """Why it is this backend, one sentence."""
        return self.sessions.reason

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Of ``auto``: why each backend that was tried does not work, a sentence each."""
        return self.sessions.passed_over

    def explained(self, reason: str, passed_over: tuple[str, ...]) -> Segmenter:
        """Say why it is this backend, and why others are not; returns the segmenter."""
        self.pipeline.sessions = replace(self.sessions, reason=reason, passed_over=passed_over)
        return self

    def close(self) -> None:
        """Let go of the networks; the segmenter cannot predict any more.

        Jobs that wait are called off, those that run come to their end first.
        """
        self._jobs.close()
        self._pipeline = None

    def predict(
        self,
        rgb: Pixels,
        mpp: float | None = None,
        cancelled: Callable[[], bool] = never,
        points: PointPrompts | None = None,
        guessed: bool = False,
    ) -> Nuclei:
        """Find every nucleus of an image and outline it (§3.3).

        Args:
            rgb: (H, W, 3) uint8, of any size from 1×1.
            mpp: microns per pixel, None if unknown. An image of another resolution than the model's is seen at the
                model's; the nuclei are in its own pixels.
            cancelled: asked before every step; the prediction ends when it says so.
            points: prompts inside the image, in place of the prompter's.
            guessed: whether ``mpp`` is a guess. An image that is enlarged on a guess is taken as sharp as it is: small
                nuclei may be small, and the detail the tissue's.

        Raises:
            ImageError: the array is not such an image, or has too many pixels at the model's resolution.
            BackendError: the backend fails, or the segmenter is closed.
            PredictionCancelledError: as ``cancelled`` said.
        """
        rescaling = Rescaling.between(check_image(rgb), mpp, self.manifest.mpp)
        clock = Clock(cancelled)
        with clock("total"):
            with clock("prepare"):
                seen = see(rescaling.image(rgb), Blurs.of(self.settings, 1.0 if guessed else rescaling.enlargement))
                given = None if points is None else rescaling.points(points)
            nuclei = self.pipeline.predict(seen, clock, given)
            with clock("masks"):
                nuclei = rescaling.back(nuclei, self.settings.tidy)
        return replace(nuclei, timings=clock.seconds)

    def submit(self, rgb: Pixels, mpp: float | None = None, timeout: float | None = None) -> Job[Nuclei]:
        """Predict in the background.

        Args:
            rgb, mpp: see :meth:`predict`.
            timeout: seconds to wait for a place in the queue (``options.queue``), None for as long as it takes.

        Returns:
            The job: ``job.result()`` or ``await job`` gives the nuclei, ``job.cancel()`` calls it off.

        Raises:
            ImageError: the array is not an image that can be predicted.
            QueueFullError: no place was free in time.
            BackendError: the segmenter is closed.
        """
        check_image(rgb)
        return self._jobs.submit(self._work(rgb, mpp), timeout)

    def predict_many(self, images: Iterable[Pixels], mpp: float | None = None) -> Iterator[Nuclei]:
        """Predict one image after another, in order, the next ones being worked on meanwhile.

        No more images are taken than ``options.queue`` and the workers hold, so any number may come.

        Raises:
            ImageError, BackendError: as :meth:`predict`, when it is that image's turn; the images
                behind it are not predicted.
        """
        yield from self._jobs.in_order(self._work(rgb, mpp) for rgb in images)

    def warm_up(self, shape: tuple[int, int] | None = None) -> None:
        """Run all networks once, so that the first image does not pay for what is done only once.

        Args:
            shape: (height, width) of the images to come, px; a window's if None.

        Raises:
            BackendError: a network does not run, or the segmenter is closed.
        """
        window = self.manifest.masking.window
        self.pipeline.warm_up(shape or (window, window))

    def _work(self, rgb: Pixels, mpp: float | None) -> Work[Nuclei]:
        return lambda cancelled: self.predict(rgb, mpp, cancelled)
