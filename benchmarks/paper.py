"""What the paper prints (ECCV 2024, arXiv 2311.15939), as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """A row of Table 5: PanNuke, batch 1, on an RTX 3090. Parameters in millions, GMACs, images a second, mPQ."""

    params_m: float
    gmacs: float
    fps: float
    mpq: float


TABLE5 = {
    "StarDist": Cost(122.8, 263.6, 17, 0.4744),
    "HoVer-Net": Cost(37.6, 150.0, 7, 0.4629),
    "CPP-Net": Cost(122.8, 264.4, 14, 0.4847),
    "PointNu-Net": Cost(158.1, 335.1, 11, 0.4957),
    "CellViT-B": Cost(142.9, 232.0, 20, 0.4923),
    "PromptNucSeg-B": Cost(145.6, 59.0, 27, 0.5095),
}

#: PanNuke, mean over tissues: bPQ, mPQ.
TABLE1 = {
    "HoVer-Net": (0.6596, 0.4629),
    "StarDist": (0.6692, 0.4744),
    "CellViT-H": (0.6793, 0.4970),
    "PromptNucSeg-H": (0.6924, 0.5123),
}

#: AJI, PQ.
TABLE4 = {
    "Kumar": {
        "U-Net": (0.556, 0.478),
        "Mask R-CNN": (0.546, 0.509),
        "DIST": (0.559, 0.443),
        "HoVer-Net": (0.618, 0.597),
        "PointNu-Net": (0.606, 0.603),
        "Full-Net": (0.601, 0.620),
        "PromptNucSeg-B": (0.614, 0.620),
        "PromptNucSeg-L": (0.621, 0.626),
        "PromptNucSeg-H": (0.622, 0.627),
        "PromptNucSeg-B, TTA": (0.620, 0.627),
        "PromptNucSeg-H, TTA": (0.624, 0.631),
    },
    "CPM-17": {
        "HoVer-Net": (0.705, 0.697),
        "PromptNucSeg-B": (0.731, 0.726),
        "PromptNucSeg-H": (0.740, 0.733),
    },
}

#: CPM-17, AJI, PQ; each row adds to the one before.
TABLE6 = {
    "frozen SAM": (0.319, 0.223),
    "+ fine-tuning": (0.728, 0.723),
    "+ auxiliary mask": (0.734, 0.727),
    "+ mask-aided filtering": (0.737, 0.731),
    "+ negative prompts": (0.740, 0.733),
}
