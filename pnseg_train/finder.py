"""A segmenter over annotated images."""

from __future__ import annotations

from dataclasses import dataclass

from pnseg_runtime.bundle import Guess
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.plausible import seen_at
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.datasets import Sample
from pnseg_train.evaluate import Found, true_points


@dataclass(frozen=True)
class Finder:
    """Finds the nuclei of samples, whatever their resolution.

    Attributes:
        segmenter: what finds them.
        oracle: whether the annotated nuclei's centroids are its prompts.
        mpp: microns per pixel of images that do not state theirs, None if unknown.
        guess: what those are taken for if it is unknown.
    """

    segmenter: Segmenter
    oracle: bool
    mpp: float | None
    guess: Guess

    @classmethod
    def usual(cls, segmenter: Segmenter) -> Finder:
        """As files are predicted where nothing is chosen."""
        return cls(segmenter, False, None, segmenter.manifest.unknown_mpp)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the model's classes."""
        return tuple(kind.name for kind in self.segmenter.manifest.class_table)

    def __call__(self, sample: Sample) -> Found:
        """What is found in a sample, in its own pixels."""
        points = true_points(sample.with_classes(len(self.classes))) if self.oracle else None

        known = sample.mpp or self.mpp

        def at(mpp: float | None) -> Nuclei:
            return self.segmenter.predict(sample.image, mpp, points=points, guessed=known is None)

        nuclei, _ = seen_at(at, known, self.guess, self.segmenter.manifest.mpp)
        return Found.of(nuclei)
