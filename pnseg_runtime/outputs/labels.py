"""The label map as a TIFF that ImageJ, QuPath and scikit-image read."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import tifffile

from pnseg_runtime.outputs.origin import mark
from pnseg_runtime.outputs.prediction import Prediction

_MICRONS_PER_CM = 10_000


def write_labels(prediction: Prediction, stream: BinaryIO) -> None:
    """Write (H, W) uint32, deflate: 0 is background, i the nucleus of row i of the table.

    With a known pixel size the resolution tags hold it, in pixels per centimetre. The description says which image
    it is of.
    """
    nuclei = prediction.nuclei
    scale: dict[str, Any] = {}
    if nuclei.mpp is not None:
        scale = {"resolution": (_MICRONS_PER_CM / nuclei.mpp,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        stream,
        nuclei.instance_map().astype(np.uint32),
        photometric="minisblack",
        compression="adobe_deflate",
        predictor=True,
        description=mark(prediction.content_hash),
        metadata=None,
        **scale,
    )
