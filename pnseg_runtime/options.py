"""How to predict: what can be chosen at run time, apart from the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pnseg_runtime.bundle import Manifest

Assignment = Literal["central", "all"]

#: Coarsest stride of the prompter's features, px: macro-tiles start on this grid.
COARSEST_STRIDE = 32

#: Context of a part of an image that the prompter does not see whole, px: as far as nano sees, so that it has the
#: points that it has on the whole image (docs/slide.md).
USUAL_MARGIN = 320
#: Microns per pixel of light microscopes; what lies outside was mostly meant in another unit, or is missing.
LEAST_MPP, MOST_MPP = 0.05, 5.0
#: Negative prompts of a point that can be asked for; the paper has up to four. Each is a column of every prompt.
MOST_CHOSEN_NEGATIVES = 64


@dataclass(frozen=True)
class Options:
    """Choices of a prediction; None stands for what the bundle's manifest says.

    Attributes:
        threads: CPU threads of an operator, None for the physical cores at hand.
        precision: what the networks compute in: ``"float32"``, ``"bfloat16"`` (OpenVINO), or one that the
            bundle has graphs or engines of (``"float16"``, ``"int8"``); None for float32, or for what the
            bundle's engines were built in where they run.
        window_batch: windows that go through the encoder together.
        prompt_batch: prompts that go through the decoder together.
        assignment: ``"central"`` decodes each point in the one window that holds it most centrally,
            ``"all"`` in every window that holds it, of which the mask with the highest predicted
            IoU stays (the reference implementation's way).
        negatives: K, nearest other points handed over as negative prompts.
        colour_blur: how far differences of colour are blurred before the networks see an image, px of the model's
            (:func:`pnseg_runtime.softening.soften`).
        enlarged_blur: how far brightness and differences of colour of an image that states a coarser resolution than
            the model's are blurred besides before the prompter sees it, px of the model's for each time that it is
            enlarged.
        sensitivity: taken from the background's class logit; more finds more nuclei, and more that are none.
        nms_radius: of the point NMS, px.
        region_filter: mask-aided filtering of the points.
        tidy: a mask is cut to its largest piece, and its holes are filled.
        nms_iou: of two masks whose boxes overlap more, one goes; in place of the manifest's ``nms_overlap``.
        nms_overlap: share of the smaller of two masks: if more of it lies in the other, one goes; in place of
            ``nms_iou``.
        score_threshold: points with a lower class probability are dropped.
        iou_threshold: masks with a lower predicted IoU are dropped.
        overlap: ε, at least what two neighbouring windows share, px.
        tta: test-time augmentation, six views of each window (:mod:`pnseg_runtime.views`), mask logits and
            predicted IoU averaged; about six times the segmentor's work.
        tta_points: the prompter sees six views of the image, and points on which they agree are taken
            (:mod:`pnseg_runtime.consensus`; not of the paper); six times the prompter's work.
        macro_tile: longest side that the prompter sees whole, px, a multiple of 32.
        macro_margin: context around the part of a macro-tile whose points count, px, a multiple of 32; None for
            320, at most a quarter of ``macro_tile``.
        workers: images that ``submit`` and ``predict_many`` work on at a time; while one has the networks,
            the others are prepared or finished.
        queue: images that may wait for a worker.

    Raises:
        ValueError: a choice that makes no sense.
    """

    threads: int | None = None
    precision: str | None = None
    window_batch: int = 8
    prompt_batch: int = 64
    assignment: Assignment = "central"
    negatives: int | None = None
    colour_blur: float | None = None
    enlarged_blur: tuple[float, float] | None = None
    sensitivity: float | None = None
    nms_radius: float | None = None
    region_filter: bool | None = None
    tidy: bool | None = None
    nms_iou: float | None = None
    nms_overlap: float | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    overlap: int | None = None
    tta: bool = False
    tta_points: bool = False
    macro_tile: int = 2048
    macro_margin: int | None = None
    workers: int = 2
    queue: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if any(isinstance(part, np.floating) and not np.isfinite(part) for part in np.ravel(value)):
                raise ValueError(f"{name} must be a number, not {value}.")
        if (self.negatives or 0) > MOST_CHOSEN_NEGATIVES:
            raise ValueError(f"negatives must be at most {MOST_CHOSEN_NEGATIVES}, not {self.negatives}.")
        for name in ("threads", "window_batch", "prompt_batch", "macro_tile", "workers", "queue"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        for name in ("negatives", "nms_radius", "overlap", "macro_margin", "colour_blur"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ValueError(f"{name} must not be negative, but is {value}.")
        if (blur := self.enlarged_blur) is not None and (np.shape(blur) != (2,) or min(blur) < 0):
            raise ValueError(f"enlarged_blur must be two numbers that are not negative, not {blur}.")
        for name in ("nms_iou", "nms_overlap", "score_threshold"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not at {value}.")
        if self.assignment not in ("central", "all"):
            raise ValueError(f'assignment must be "central" or "all", not "{self.assignment}".')
        if self.macro_tile % COARSEST_STRIDE or (self.macro_margin or 0) % COARSEST_STRIDE:
            raise ValueError(f"macro_tile and macro_margin must be multiples of {COARSEST_STRIDE} px.")
        if self.macro_tile <= 2 * self.context:
            raise ValueError("macro_tile must be more than twice macro_margin.")

    @property
    def context(self) -> int:
        """Context around the part of a macro-tile whose points count, px: what is chosen, or what is usual."""
        if self.macro_margin is not None:
            return self.macro_margin
        return min(USUAL_MARGIN, self.macro_tile // 4 // COARSEST_STRIDE * COARSEST_STRIDE)


@dataclass(frozen=True)
class Settings:
    """What a prediction follows: the manifest's values, or the ones chosen instead."""

    negatives: int
    colour_blur: float
    enlarged_blur: tuple[float, float]
    sensitivity: float
    nms_radius: float
    region_filter: bool
    tidy: bool
    nms_iou: float
    nms_overlap: float | None
    score_threshold: float
    iou_threshold: float
    overlap: int

    @classmethod
    def of(cls, manifest: Manifest, options: Options) -> Settings:
        """Every option that is not None, otherwise what the manifest says.

        Raises:
            ValueError: windows that overlap whole.
        """
        said = manifest.prompting.model_dump() | manifest.masking.model_dump()
        said |= {"colour_blur": manifest.colour_blur, "enlarged_blur": manifest.enlarged_blur}
        chosen = {name: getattr(options, name) for name in cls.__dataclass_fields__}
        if options.nms_iou is not None:
            said["nms_overlap"] = None
        settings = cls(**{name: said[name] if value is None else value for name, value in chosen.items()})
        if settings.overlap >= manifest.masking.window:
            raise ValueError(
                f"overlap must be less than a window's {manifest.masking.window} px, not {settings.overlap}."
            )
        return settings
