"""Prediction with everything on an NVIDIA GPU; see ``docs/cuda.md``.

>>> from pnseg_runtime import cuda
>>> segmenter = cuda.load("bundles/mine", precision="float16")
>>> nuclei = segmenter.predict(rgb)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pnseg_runtime.cuda.segmenter import DeviceSegmenter

#: What a user asks for, beside the names in :data:`pnseg_runtime.sessions.BACKENDS`.
CUDA = "cuda"


def load(name_or_path: str | Path, **options: Any) -> DeviceSegmenter:
    """Open a bundle's engines for prediction on the first GPU.

    Args:
        name_or_path: a bundle's folder, or a shipped bundle's name.
        options: fields of :class:`pnseg_runtime.options.Options`.

    Raises:
        BundleError: no such bundle, or one without engines.
        BackendError: the GPU, its driver or libraries are missing, or no engine fits them.
        TypeError, ValueError: an option that does not exist or makes no sense.
    """
    from pnseg_runtime.bundle import Bundle
    from pnseg_runtime.cuda.segmenter import DeviceSegmenter
    from pnseg_runtime.options import Options

    return DeviceSegmenter(Bundle.open(name_or_path), Options(**options))
