"""What can be chosen for a slide, apart from the model and how it predicts."""

from __future__ import annotations

from dataclasses import dataclass

from pnseg_runtime.options import LEAST_MPP, MOST_MPP, USUAL_MARGIN


@dataclass(frozen=True)
class SlideOptions:
    """Choices of a run over a slide.

    Attributes:
        mpp: microns per pixel of the full resolution, in place of what the file states.
        tissue: look only where the thumbnail shows tissue.
        roi: ``X,Y,WIDTH,HEIGHT`` in px of the full resolution, or the path of a GeoJSON file.
        core: about the side of the squares the slide is cut into, px of the model; None for 1920, or less where the
            bundle's engines cannot be shown so much.
        margin: at least so much around a core is shown to the prompter, px of the model.

    Raises:
        ValueError: a choice that makes no sense.
    """

    mpp: float | None = None
    tissue: bool = True
    roi: str | None = None
    core: int | None = None
    margin: int = USUAL_MARGIN

    def __post_init__(self) -> None:
        if self.mpp is not None and not LEAST_MPP <= self.mpp <= MOST_MPP:
            raise ValueError(
                f"{self.mpp:g} microns per pixel are none of a light microscope; give a value from {LEAST_MPP:g} to "
                f"{MOST_MPP:g}."
            )
        if self.core is not None and self.core < 64:
            raise ValueError(f"core must be at least 64 px, not {self.core}.")
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, but is {self.margin}.")
