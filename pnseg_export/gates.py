"""How close another precision or engine must come to the float32 model: limits as data, and what falls short."""

from __future__ import annotations

from dataclasses import dataclass

from pnseg_export.agreement import CONFIDENT, Agreement


@dataclass(frozen=True)
class Limits:
    """How close a participant must come to the reference.

    Attributes:
        iou: least mean mask IoU.
        lost: most points lost with a score over :data:`~pnseg_export.agreement.CONFIDENT`, None for any number.
        share: most points lost, as a share of the reference's.
        pq: most PQ, as a mean over images, by which it may differ from the reference's on annotated images.
    """

    iou: float
    lost: int | None
    share: float
    pq: float


LIMITS = {
    "float32": Limits(iou=0.999, lost=0, share=0.001, pq=0.0005),
    "float16": Limits(iou=0.995, lost=0, share=0.01, pq=0.002),
    "bfloat16": Limits(iou=0.97, lost=None, share=0.05, pq=0.01),
    "int8": Limits(iou=0.97, lost=None, share=0.05, pq=0.01),
}


def shortfalls(agreement: Agreement, limits: Limits) -> list[str]:
    """What falls short on images without annotations, each in words; a figure that is NaN does."""
    said = []
    if not agreement.mean_iou >= limits.iou:
        said.append(f"mean mask IoU {agreement.mean_iou:.4f}, at least {limits.iou:g} is needed")
    if limits.lost is not None and agreement.confident_lost > limits.lost:
        said.append(f"{agreement.confident_lost} points with a score over {CONFIDENT:g} are lost")
    if not agreement.share_lost <= limits.share:
        said.append(f"{agreement.share_lost:.1%} of the points are lost, allowed is {limits.share:.1%}")
    return said
