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
        gained: most points gained, as a share of the reference's.
        nuclei: most nuclei lost, and most gained, as a share of the reference's.
        agreement: least PQ against the reference, over the nuclei of all images.
        pq: most PQ, as a mean over images, by which it may differ from the reference's on annotated images.
    """

    iou: float
    lost: int | None
    share: float
    gained: float
    nuclei: float
    agreement: float
    pq: float


LIMITS = {
    "float32": Limits(iou=0.999, lost=0, share=0.001, gained=0.001, nuclei=0.005, agreement=0.995, pq=0.0005),
    "float16": Limits(iou=0.995, lost=0, share=0.01, gained=0.01, nuclei=0.02, agreement=0.98, pq=0.002),
    "bfloat16": Limits(iou=0.97, lost=None, share=0.05, gained=0.05, nuclei=0.05, agreement=0.95, pq=0.01),
    "int8": Limits(iou=0.97, lost=None, share=0.05, gained=0.05, nuclei=0.05, agreement=0.93, pq=0.01),
}

#: Nuclei of the reference without which nothing is judged: figures over fewer, or over none, say little.
ENOUGH = 10

#: Share of an agreement → the limit of it, and what is said of it.
SHARES = {
    "share_lost": ("share", "{:.1%} of the points are lost"),
    "share_gained": ("gained", "gained points come to {:.1%} of the reference's"),
    "share_nuclei_lost": ("nuclei", "{:.1%} of the nuclei are lost"),
    "share_nuclei_gained": ("nuclei", "gained nuclei come to {:.1%} of the reference's"),
}


def told(limit: str, *precisions: str) -> str:
    """A limit of several precisions, for a help text: ``0.995 for float16 and 0.97 for int8``."""
    *others, last = (f"{getattr(LIMITS[precision], limit):g} for {precision}" for precision in precisions)
    return f"{', '.join(others)} and {last}" if others else last


def can_judge(agreement: Agreement) -> bool:
    """Whether the reference finds nuclei enough for shares of them to say something."""
    return agreement.nuclei_reference >= ENOUGH


def shortfalls(agreement: Agreement, limits: Limits) -> list[str]:
    """What falls short on images without annotations, each in words; a figure that is NaN does.

    Too few nuclei to judge by fall short, whatever the figures.
    """
    if not can_judge(agreement):
        found = f"the reference finds {agreement.nuclei_reference} nuclei in these images"
        return [f"{found}, too few to judge by (at least {ENOUGH} are needed)"]
    said = []
    if not agreement.mean_iou >= limits.iou:
        said.append(f"mean mask IoU {agreement.mean_iou:.4f}, at least {limits.iou:g} is needed")
    if limits.lost is not None and agreement.confident_lost > limits.lost:
        said.append(f"{agreement.confident_lost} points with a score over {CONFIDENT:g} are lost")
    for name, (limit, words) in SHARES.items():
        share, most = getattr(agreement, name), getattr(limits, limit)
        if not share <= most:
            said.append(f"{words.format(share)}, allowed is {most:.1%}")
    if not agreement.pq >= limits.agreement:
        said.append(f"PQ against the reference {agreement.pq:.4f}, at least {limits.agreement:g} is needed")
    return said
