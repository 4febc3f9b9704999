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

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.assign import WindowPrompts, batches, window_prompts
from pnseg_runtime.buffers import Buffers
from pnseg_runtime.bundle import Manifest
from pnseg_runtime.clock import Clock
from pnseg_runtime.consensus import NEARNESS, agreed_points, judged_points
from pnseg_runtime.masks import DecodedMasks, MaskLogits, best_per_point, best_whole_masks
from pnseg_runtime.nms import suppress_overlaps
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.painting import paint, tidied
from pnseg_runtime.pixels import Pixels, normalise, padded_shape
from pnseg_runtime.prompts import PointPrompts, decode_points, filter_by_region, image_anchors, suppress_points
from pnseg_runtime.sessions import Sessions
from pnseg_runtime.softening import Seen
from pnseg_runtime.views import PLAIN, SIX
from pnseg_runtime.windows import Origins, Part, cut, from_first_centres, macro_tiles, mirror, windows

Arrays = dict[str, NDArray[Any]]
#: Anchors' points and class logits, the image's shape and the sensitivity → points.
Decode = Callable[[NDArray[np.float32], NDArray[np.float32], tuple[int, int], float], PointPrompts]


class Pipeline:
    """The networks and everything between them, on images of the model's resolution.

    Attributes:
        manifest: of the bundle.
        options: choices other than the defaults.
        settings: what holds for the predictions, the options over the manifest.
        sessions: the networks.
    """

    def __init__(self, manifest: Manifest, options: Options, sessions: Sessions) -> None:
        self.manifest, self.options, self.sessions = manifest, options, sessions
        self.settings = Settings.of(manifest, options)
        self._views = SIX if options.tta else PLAIN
        self._buffers = Buffers()

    def predict(self, seen: Seen, clock: Clock, points: PointPrompts | None = None) -> Nuclei:
        """Every nucleus of an image: points, a mask for each, one nucleus where several masks agree.

        Args:
            seen: the image as the two networks see it.
            clock: adds up the time of the stages, and ends the prediction where it is called off.
            points: prompts in px of the image, in place of the prompter's.
        """
        shape = (seen.segmentor.shape[0], seen.segmentor.shape[1])
        if points is None:
            points = self.propose_points(seen.prompter, clock)
        prompts = replace(points, coords=from_first_centres(points.coords))
        masks = self.decode_masks(seen.segmentor, shape, prompts, clock)
        with clock("masks"):
            masks = self.refine(masks)
            masks = masks.select(suppress_overlaps(masks, self.settings.nms_iou, self.settings.nms_overlap))
            return self.paint(masks, points, shape)

    def propose_points(self, rgb: Pixels, clock: Clock) -> PointPrompts:
        """One point a nucleus; the prompter sees the image whole up to a limit, in macro-tiles beyond."""
        parts = []
        for tile in macro_tiles(rgb.shape[:2], self.options.macro_tile, self.options.context):
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
        points = self._agreed(view, clock) if self.options.tta_points else self._proposed(view, clock)
        with clock("points"):
            points = points.select(points.scores >= self.settings.score_threshold)
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
        masks = self.decode_masks(view, part.local_shape, points.shifted(part.shift), clock, part, owned)
        with clock("masks"):
            return self.refine(masks).shifted((-part.shift[0], -part.shift[1]))

    def decode_masks(
        self,
        rgb: Pixels,
        shape: tuple[int, int],
        points: PointPrompts,
        clock: Clock,
        part: Part | None = None,
        owned: NDArray[np.bool_] | None = None,
    ) -> DecodedMasks:
        """The best masks of every (owned) point, with or without negative prompts, that no window cuts."""
        masking, settings, found = self.manifest.masking, self.settings, []
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
            for prompts in zip(*(each.within(batch, self.options.prompt_batch) for each in passes), strict=True):
                with clock("decoder"):
                    raw = [self._decode_views(features, some.tensors(batch)) for some in prompts]
                with clock("masks"):
                    logits = [mask_logits(each, some, origins) for each, some in zip(raw, prompts, strict=True)]
                    found.append(best_whole_masks(MaskLogits.joined(logits), masking.window, shape, masking.border))
        return DecodedMasks.joined(found)

    def refine(self, masks: DecodedMasks) -> DecodedMasks:
        """One mask a point, the most certain one, if it is certain enough; tidied where that is asked for."""
        masks = masks.select(best_per_point(masks.points, masks.ious))
        masks = masks.select(masks.ious >= self.settings.iou_threshold)
        return tidied(masks) if self.settings.tidy else masks

    def paint(self, masks: DecodedMasks, points: PointPrompts, shape: tuple[int, int]) -> Nuclei:
        """Nuclei of masks; of two that overlap, the more certain one has the pixels."""
        visible, boxes, painted = paint(masks.boxes, masks.masks, masks.ious, shape, self.settings.tidy)
        points = points.select(masks.points[visible])
        return Nuclei(
            shape=shape,
            points=points.coords,
            classes=points.classes if masks.classes is None else masks.classes[visible],
            scores=points.scores,
            ious=masks.ious[visible],
            boxes=boxes,
            masks=tuple(painted),
            class_table=self.manifest.class_table,
        )

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Run all networks once on black pixels of the sizes that images (height, width) have, px."""
        masking = self.manifest.masking
        height, width = (min(side, self.options.macro_tile) for side in shape)
        padded = padded_shape((height, width), self.manifest.prompting.pad_multiple)

        def black(*sides: int) -> Arrays:
            pixels = np.zeros((*sides, 3), np.uint8)
            return {"image": normalise(pixels, self.manifest.normalisation, self._buffers)}

        self.sessions.prompter(black(1, *padded))
        count = min(self.options.window_batch, len(windows(shape, masking.window, self.settings.overlap)))
        features = self.sessions.encoder(black(count, masking.window, masking.window))
        for negatives in {self.settings.negatives, 0}:
            coords = np.full((count, 1 + negatives, 2), masking.window / 2, np.float32)
            labels = np.ones(coords.shape[:2], np.float32)
            asked = {"point_coords": coords, "point_labels": labels, "image_index": np.arange(count)}
            self.sessions.decoder({**features, **asked})

    def _proposed(self, rgb: Pixels, clock: Clock, decode: Decode = decode_points) -> PointPrompts:
        """What the prompter makes of a view, before NMS."""
        prompting, shape = self.manifest.prompting, (rgb.shape[0], rgb.shape[1])
        with clock("prepare"):
            padded = padded_shape(shape, prompting.pad_multiple)
            image = normalise(mirror(rgb, padded)[None], self.manifest.normalisation, self._buffers)
        with clock("prompter"):
            raw = self.sessions.prompter({"image": image})
        with clock("points"):
            coords = image_anchors(raw["points"][0], padded, shape, prompting.anchor_spacing)
            logits = image_anchors(raw["class_logits"][0], padded, shape, prompting.anchor_spacing)
            points = decode(coords, logits, shape, self.settings.sensitivity)
            if self.settings.region_filter:
                points = points.select(filter_by_region(points.coords, raw["region_logits"][0, 0]))
        return points

    def _agreed(self, rgb: Pixels, clock: Clock) -> PointPrompts:
        """What the prompter makes of a view flipped and turned, where that agrees, before NMS."""
        radius, seen = self.settings.nms_radius, []
        for view in SIX:
            points = self._proposed(view.pixels(rgb), clock, judged_points)
            with clock("points"):
                points = points.select(suppress_points(points.coords, points.scores, radius))
                seen.append(replace(points, coords=view.returned(points.coords, (rgb.shape[0], rgb.shape[1]))))
        with clock("points"):
            return agreed_points(seen, NEARNESS * radius)

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


def mask_logits(raw: Arrays, prompts: WindowPrompts, origins: Origins) -> MaskLogits:
    """The decoder's outputs for prompts in windows that lie at ``origins`` (n, 2), px."""
    classes = raw["class_logits"].argmax(axis=1) if "class_logits" in raw else None
    return MaskLogits(prompts.points, origins[prompts.windows], raw["iou"], raw["mask_logits"], classes)
