"""What finds nuclei in annotated images: a bundle, checkpoints or anyone's label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pnseg_runtime.bundle import MANIFEST_NAME, Bundle, Guess, shipped_bundles
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.options import Options
from pnseg_runtime.params import MppChoice, settled
from pnseg_runtime.plausible import seen_at
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.checkpoints import CARD
from pnseg_train.datasets import Sample
from pnseg_train.evaluate import Found, true_points
from pnseg_train.label_maps import LabelMaps
from pnseg_train.recipes import Splits

Find = Callable[[Sample], Found]


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


def open_model(
    model: Sequence[str], options: Options, oracle: bool = False, mpp: MppChoice = None
) -> tuple[Find, tuple[str, ...]]:
    """What finds nuclei in a sample, and the names of the classes if it tells several.

    Raises:
        PnsegError: neither one bundle nor two checkpoints nor a folder of label maps.
    """
    if len(model) == 1 and _holds_label_maps(Path(model[0])):
        if oracle:
            raise PnsegError(f"{model[0]}: label maps are not prompted; --points oracle is for models.")
        return LabelMaps(Path(model[0])), ()
    segmenter = open_segmenter(model, options)
    find = Finder(segmenter, oracle, *settled(mpp, segmenter.manifest.unknown_mpp))
    return find, find.classes if len(find.classes) > 1 else ()


def open_segmenter(model: Sequence[str], options: Options) -> Segmenter:
    """A segmenter on a bundle, or on two checkpoints run in PyTorch.

    Raises:
        PnsegError: neither one bundle nor two checkpoints.
    """
    if len(model) == 1:
        return Segmenter(Bundle.open(model[0]), options)
    if len(model) != 2:
        raise PnsegError("give one bundle, a prompter's and a segmentor's checkpoint, or one folder of label maps.")
    from pnseg_train.inference import open_checkpoints

    return open_checkpoints(Path(model[0]), Path(model[1]), options)


def held_out(model: Sequence[str]) -> str:
    """The split that a model was not trained on, as far as it says so.

    Raises:
        PnsegError: checkpoints that agree on none.
    """
    if len(model) == 2 and all((Path(part) / CARD).is_file() for part in model):
        from pnseg_train.inference import validation_split

        return validation_split(Path(model[0]), Path(model[1]))
    return Splits().val


def _holds_label_maps(path: Path) -> bool:
    if str(path) in shipped_bundles() and not path.is_dir():
        return False
    if (path / CARD).is_file():
        raise PnsegError(f"{path}: one checkpoint alone; give the prompter's and the segmentor's.")
    return path.is_dir() and not (path / MANIFEST_NAME).is_file()
