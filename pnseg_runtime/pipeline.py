"""Image → nuclei: the method's inference (§3.3), each step a verb that lives in the module its name says.

The networks' tensors, by name:

* prompter: ``image (B, 3, H, W)`` → ``points (B, M, 2)``, ``class_logits (B, M, C + 1)``,
  ``region_logits (B, 1, H, W)``; H and W multiples of the manifest's ``pad_multiple``.
* encoder: ``image (B, 3, window, window)`` → whatever the decoder needs of a window, B first.
* decoder: that, ``point_coords (P, n, 2)``, ``point_labels (P, n)`` and ``image_index (P,)``, the
  window among the B of each prompt → ``mask_logits (P, m, m)``, ``iou (P,)`` and, if the segmentor
  tells the classes, ``class_logits (P, C)``.

Images are RGB scaled to 0–1 and normalised; all tensors are float32, ``image_index`` is int64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.assign import batches, window_prompts
from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import Bundle, Normalisation
from pnseg_runtime.clock import Clock, never
from pnseg_runtime.errors import BackendError, ImageError
from pnseg_runtime.jobs import Job, Jobs, Work
from pnseg_runtime.masks import (
    DecodedMasks,
    best_per_point,
    crop_masks,
    paint,
    suppress_boxes,
    tidied,
    touches_inner_border,
)
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import COARSEST_STRIDE, Options, Settings
from pnseg_runtime.prompts import PointPrompts, decode_points, filter_by_region, image_anchors, suppress_points
from pnseg_runtime.rescale import Rescaling
from pnseg_runtime.sessions import Sessions, open_sessions
from pnseg_runtime.views import PLAIN, SIX
from pnseg_runtime.windows import Part, cut, macro_tiles, mirror, windows

Pixels = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]


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
        self.settings = Settings.of(bundle.manifest, self.options)
        self._views = SIX if self.options.tta else PLAIN
        unread = frozenset() if self.settings.region_filter else frozenset({"region_logits"})
        self._sessions: Sessions | None = sessions or open_sessions(
            bundle, backend, self.options.threads, self.options.precision, unread, cache
        )
        self._buffers = Buffers()
        self._jobs: Jobs[Nuclei] | None = None
        self._lock = Lock()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sessions(self) -> Sessions:
        """The open networks; their ``backend`` and ``reason`` say what runs and why.

        Raises:
            BackendError: the segmenter is closed.
        """
        if (sessions := self._sessions) is None:
            raise BackendError("This segmenter is closed; open the bundle again.")
        return sessions

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

    def explained(self, passed_over: str) -> Segmenter:
        """Add a sentence to :attr:`passed_over`; returns the segmenter."""
        self._sessions = replace(self.sessions, passed_over=(passed_over, *self.sessions.passed_over))
        return self

    def close(self) -> None:
        """Let go of the networks; the segmenter cannot predict any more.

        Jobs that wait are called off, those that run come to their end first.
        """
        with self._lock:
            jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.close()
        self._sessions = None

    def predict(
        self,
        rgb: Pixels,
        mpp: float | None = None,
        cancelled: Callable[[], bool] = never,
        points: PointPrompts | None = None,
    ) -> Nuclei:
        """Find every nucleus of an image and outline it (§3.3).

        Args:
            rgb: (H, W, 3) uint8, of any size from 1×1.
            mpp: microns per pixel, None if unknown. An image of another resolution than the model's is seen at the
                model's; the nuclei are in its own pixels.
            cancelled: asked before every step; the prediction ends when it says so.
            points: prompts inside the image, in place of the prompter's.

        Raises:
            ImageError: the array is not such an image.
            BackendError: the backend fails, or the segmenter is closed.
            PredictionCancelledError: as ``cancelled`` said.
        """
        rescaling = Rescaling.between(check_image(rgb), mpp, self.manifest.mpp)
        clock = Clock(cancelled)
        with clock("total"):
            with clock("prepare"):
                seen, given = rescaling.image(rgb), None if points is None else rescaling.points(points)
            nuclei = self._predict(seen, given, clock)
            with clock("masks"):
                nuclei = rescaling.back(nuclei)
        return replace(nuclei, timings=clock.seconds)

    def _predict(self, rgb: Pixels, points: PointPrompts | None, clock: Clock) -> Nuclei:
        """The method's inference on an image of the model's resolution."""
        shape = (rgb.shape[0], rgb.shape[1])
        points = self._find_points(rgb, shape, clock) if points is None else points
        found = self._decode_masks(rgb, shape, points, clock)
        with clock("masks"):
            found = self._refined(found)
            found = found.select(suppress_boxes(found.boxes, found.ious, self.settings.nms_iou))
            visible, boxes, masks = paint(found.boxes, found.masks, found.ious, shape, self.settings.tidy)
        points, ious = points.select(found.points[visible]), found.ious[visible]
        classes = points.classes if found.classes is None else found.classes[visible]
        return Nuclei(
            shape=shape,
            points=points.coords,
            classes=classes,
            scores=points.scores,
            ious=ious,
            boxes=boxes,
            masks=tuple(masks),
            class_table=self.manifest.class_table,
        )

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
        return self._workers().submit(self._work(rgb, mpp), timeout)

    def predict_many(self, images: Iterable[Pixels], mpp: float | None = None) -> Iterator[Nuclei]:
        """Predict one image after another, in order, the next ones being worked on meanwhile.

        No more images are taken than ``options.queue`` and the workers hold, so any number may come.

        Raises:
            ImageError, BackendError: as :meth:`predict`, when it is that image's turn; the images
                behind it are not predicted.
        """
        yield from self._workers().in_order(self._work(rgb, mpp) for rgb in images)

    def warm_up(self, shape: tuple[int, int] | None = None) -> None:
        """Run all networks once, so that the first image does not pay for what is done only once.

        Args:
            shape: (height, width) of the images to come, px; a window's if None.

        Raises:
            BackendError: a network does not run, or the segmenter is closed.
        """
        sessions, masking = self.sessions, self.manifest.masking
        shape = shape or (masking.window, masking.window)
        height, width = (min(side, self.options.macro_tile) for side in shape)
        padded = padded_shape((height, width), self.manifest.prompting.pad_multiple)

        def black(*sides: int) -> Arrays:
            pixels = np.zeros((*sides, 3), np.uint8)
            return {"image": normalise(pixels, self.manifest.normalisation, self._buffers)}

        sessions.prompter(black(1, *padded))
        count = min(self.options.window_batch, len(windows(shape, masking.window, self.settings.overlap)))
        features = sessions.encoder(black(count, masking.window, masking.window))
        for negatives in {self.settings.negatives, 0}:
            coords = np.full((count, 1 + negatives, 2), masking.window / 2, np.float32)
            labels = np.ones(coords.shape[:2], np.float32)
            asked = {"point_coords": coords, "point_labels": labels, "image_index": np.arange(count)}
            sessions.decoder({**features, **asked})

    def _work(self, rgb: Pixels, mpp: float | None) -> Work[Nuclei]:
        return lambda cancelled: self.predict(rgb, mpp, cancelled)

    def _workers(self) -> Jobs[Nuclei]:
        with self._lock:
            if (jobs := self._jobs) is None:
                assert self.sessions  # raises if the segmenter is closed
                jobs = self._jobs = Jobs(self.options.workers, self.options.queue)
            return jobs

    def _find_points(self, rgb: Pixels, shape: tuple[int, int], clock: Clock) -> PointPrompts:
        """One point a nucleus; the prompter sees the image whole up to a limit, in macro-tiles beyond."""
        parts = []
        for tile in macro_tiles(shape, self.options.macro_tile, self.options.macro_margin):
            x0, y0, x1, y1 = tile.view
            part = self.find_points(rgb[y0:y1, x0:x1], clock).shifted((x0, y0))
            parts.append(part.select(tile.owns(part.coords)))
        with clock("points"):
            points = PointPrompts.joined(parts)
            return points.select(suppress_points(points.coords, points.scores, self.settings.nms_radius))

    def find_points(self, view: Pixels, clock: Clock | None = None) -> PointPrompts:
        """One point a nucleus of a view that the prompter sees whole (§3.2).

        Args:
            view: (H, W, 3) uint8.
            clock: adds up the time of the stages.

        Returns:
            Points in px of the view.
        """
        clock = clock or Clock()
        points = self._propose_points(view, (view.shape[0], view.shape[1]), clock)
        with clock("points"):
            return points.select(suppress_points(points.coords, points.scores, self.settings.nms_radius))

    def decode_part(
        self, view: Pixels, points: PointPrompts, owned: NDArray[np.bool_], part: Part, clock: Clock | None = None
    ) -> DecodedMasks:
        """The best mask of every owned point of a part of a large image, decoded as in the whole image (§3.3).

        Windows lie where they lie in the whole image. All points are context, the owned ones alone are
        decoded. The masks are neither suppressed nor painted yet: both need what the neighbours found.

        Args:
            view: (h, w, 3) uint8, the part's pixels; around every owned point as much as a window.
            points: N points, px of the view.
            owned: (N,) bool, the points to decode.
            part: where the view lies in the image.
            clock: adds up the time of the stages.

        Returns:
            Masks in px of the view; their ``points`` are indices into the N points.
        """
        clock = clock or Clock()
        found = self._decode_masks(view, part.local_shape, points.shifted(part.shift), clock, part, owned)
        with clock("masks"):
            return self._refined(found).shifted((-part.shift[0], -part.shift[1]))

    def _refined(self, found: DecodedMasks) -> DecodedMasks:
        """One mask a point, the most certain one, if it is certain enough; tidied where that is asked for."""
        found = found.select(best_per_point(found.points, found.ious))
        found = found.select(found.ious >= self.settings.iou_threshold)
        return tidied(found) if self.settings.tidy else found

    def _propose_points(self, rgb: Pixels, shape: tuple[int, int], clock: Clock) -> PointPrompts:
        """What the prompter makes of one view, before NMS."""
        prompting = self.manifest.prompting
        with clock("prepare"):
            padded = padded_shape(shape, prompting.pad_multiple)
            image = normalise(mirror(rgb, padded)[None], self.manifest.normalisation, self._buffers)
        with clock("prompter"):
            raw = self.sessions.prompter({"image": image})
        with clock("points"):
            coords = image_anchors(raw["points"][0], padded, shape, prompting.anchor_spacing)
            logits = image_anchors(raw["class_logits"][0], padded, shape, prompting.anchor_spacing)
            points = decode_points(coords, logits, shape, self.settings.sensitivity)
            points = points.select(points.scores >= self.settings.score_threshold)
            if self.settings.region_filter:
                points = points.select(filter_by_region(points.coords, raw["region_logits"][0, 0]))
        return points

    def _decode_masks(
        self,
        rgb: Pixels,
        shape: tuple[int, int],
        points: PointPrompts,
        clock: Clock,
        part: Part | None = None,
        owned: NDArray[np.bool_] | None = None,
    ) -> DecodedMasks:
        """Every mask of every (owned) point, with and without negative prompts, that its window does not cut."""
        masking, settings, parts = self.manifest.masking, self.settings, []
        part = part or Part.of((0, 0, shape[1], shape[0]), shape, masking.window, settings.overlap)
        with clock("prepare"):
            origins = part.held(windows(shape, masking.window, settings.overlap), masking.window)
            passes = window_prompts(
                points.coords, origins, masking.window, shape, settings.negatives, self.options.assignment
            )
            if owned is not None:
                passes = [prompts.select(owned[prompts.points]) for prompts in passes]
        for batch in batches(passes[0], self.options.window_batch):
            with clock("prepare"):
                cuts = cut(rgb, origins[batch] - part.shift, masking.window)
                images = normalise(cuts, self.manifest.normalisation, self._buffers)
            with clock("encoder"):
                features = [self.sessions.encoder({"image": view.of(images)}) for view in self._views]
            for prompts in (some for each in passes for some in each.within(batch, self.options.prompt_batch)):
                with clock("decoder"):
                    raw = self._decode_views(features, prompts.tensors(batch))
                with clock("masks"):
                    corners = origins[prompts.windows]
                    boxes, masks = crop_masks(raw["mask_logits"], corners, masking.window, shape)
                    whole = ~touches_inner_border(boxes, corners, masking.window, shape, masking.border)
                    classes = raw["class_logits"].argmax(axis=1) if "class_logits" in raw else None
                    found = DecodedMasks(prompts.points, raw["iou"], boxes, masks, classes)
                    parts.append(found.select(whole & (boxes[:, 0] < boxes[:, 2])))
        return DecodedMasks.joined(parts)

    def _decode_views(self, features: list[Arrays], prompts: Arrays) -> Arrays:
        """The decoder's outputs, averaged over the views of test-time augmentation."""
        side, outputs = self.manifest.masking.window, []
        for view, seen in zip(self._views, features, strict=True):
            coords = view.moved(prompts["point_coords"], prompts["point_labels"], side)
            raw = self.sessions.decoder({**seen, **prompts, "point_coords": coords})
            outputs.append({**raw, "mask_logits": view.back(raw["mask_logits"])})
        if len(outputs) == 1:
            return outputs[0]
        return {name: np.mean([output[name] for output in outputs], axis=0) for name in outputs[0]}


def check_image(rgb: Pixels) -> tuple[int, int]:
    """(height, width) of an RGB image.

    Raises:
        ImageError: anything but a (H, W, 3) uint8 array with at least one pixel.
    """
    if not isinstance(rgb, np.ndarray):
        raise ImageError(f"An image must be a NumPy array, not {type(rgb).__name__}; convert it with numpy.asarray.")
    if np.issubdtype(rgb.dtype, np.inexact) and not np.isfinite(rgb).all():
        raise ImageError("The image has values that are not finite (NaN or infinite); replace them first.")
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError(f"An image must have the shape (height, width, 3), not {rgb.shape}; convert it to RGB.")
    if rgb.dtype != np.uint8:
        raise ImageError(f"An image must be uint8 with values from 0 to 255, not {rgb.dtype}; scale and convert it.")
    height, width, _ = rgb.shape
    if not height or not width:
        raise ImageError(f"The image has no pixels (its shape is {rgb.shape}); give one of at least 1×1.")
    return height, width


def normalise(rgb: Pixels, normalisation: Normalisation, buffers: Buffers | None = None) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32: scaled to 0–1, less the mean, divided by the standard deviation.

    A channel has 256 values, so they are computed once and looked up.

    Args:
        buffers: where the result's memory comes from.
    """
    batch, height, width, channels = rgb.shape
    shape = (batch, channels, height, width)
    out = np.empty(shape, np.float32) if buffers is None else buffers.take(shape, np.float32)
    mean, std = (np.array(values, np.float32) for values in (normalisation.mean, normalisation.std))
    table = (np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std
    for channel in range(channels):
        np.take(table[:, channel], rgb[..., channel], out=out[:, channel], mode="clip")
    return out


def padded_shape(shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The prompter's (height, width), px: the next multiples, and at least one cell of its coarsest features."""
    height, width = (max(-(-side // multiple) * multiple, COARSEST_STRIDE) for side in shape)
    return height, width
