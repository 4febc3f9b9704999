"""Names of the dynamic axes, and what they may be."""

from __future__ import annotations

from typing import Any

from torch.export import Dim

# A tensor's name → its axes: a size, or the name of a dynamic axis.
Tensors = dict[str, list[int | str]]

# The prompter's image sides are multiples of λ, as the reference implementation pads them.
SMALLEST_SPACING = 8

DYNAMIC: dict[str, Any] = {
    "batch": Dim("batch", min=1, max=1024),
    "height": SMALLEST_SPACING * Dim("rows", min=4, max=4096),
    "width": SMALLEST_SPACING * Dim("columns", min=4, max=4096),
    "prompts": Dim("prompts", min=1, max=65536),
    "points": Dim("points", min=1, max=16),
}


def dynamic_shapes(inputs: Tensors) -> tuple[dict[int, Any], ...]:
    """What ``torch.export`` wants to know: for each input, axis → dimension."""
    return tuple({i: DYNAMIC[axis] for i, axis in enumerate(axes) if isinstance(axis, str)} for axes in inputs.values())
