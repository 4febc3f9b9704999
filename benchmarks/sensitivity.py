"""How random weights are made to find a wanted number of nuclei."""

from __future__ import annotations

from collections.abc import Callable

#: Where the background's logit may be lowered to, and how often the interval is halved.
REACH, HALVINGS = 8.0, 24


def sensitivity_for(found: Callable[[float], int], nuclei: int) -> float:
    """What the background's logit is to be lowered by, so that about so many nuclei are found.

    Args:
        found: sensitivity → how many there are; more with a higher one.
        nuclei: how many there should be.
    """
    low, high = -REACH, REACH
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        count = found(middle)
        if count == nuclei:
            return middle
        low, high = (low, middle) if count > nuclei else (middle, high)
    return (low + high) / 2
