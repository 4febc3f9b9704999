"""Networks with random weights, for measurements that do not depend on what was learned."""

from __future__ import annotations

import torch

from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor
from pnseg_train.models.sizes import build_prompter, build_segmentor

# The prompter as it is trained on PanNuke (paper section 4): λ, L, C.
SPACING, LEVELS, CLASSES = 8, 3, 5


def random_pair(
    size: str, device: str = "cpu", *, levels: int = LEVELS, spacing: int = SPACING, classes: int = CLASSES
) -> tuple[Prompter, Segmentor]:
    """Both networks of a size, the same weights every time; on the device ``meta`` they have none."""
    torch.manual_seed(0)
    with torch.device(device):
        prompter = build_prompter(size, levels=levels, spacing=spacing, num_classes=classes)
        segmentor = build_segmentor(size)
    return prompter.eval(), segmentor.eval()
