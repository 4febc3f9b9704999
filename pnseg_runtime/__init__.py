"""pnseg's runtime: nuclei in histology images, without PyTorch.

>>> import pnseg_runtime
>>> segmenter = pnseg_runtime.load("nano")
>>> nuclei = segmenter.predict(rgb)
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnseg_runtime.nuclei import Nuclei

if TYPE_CHECKING:
    from pnseg_runtime.cuda.segmenter import DeviceSegmenter
    from pnseg_runtime.segmenter import Segmenter

__all__ = ["Nuclei", "Segmenter", "__version__", "load"]

try:
    __version__ = version("pnseg")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0.1.0"


def load(
    name_or_path: str | Path = "nano", backend: str = "onnxruntime", **options: Any
) -> Segmenter | DeviceSegmenter:
    """Open a bundle for prediction.

    Args:
        name_or_path: a shipped bundle's name, or a bundle's folder.
        backend: a name in :data:`pnseg_runtime.sessions.BACKENDS`, ``"cuda"`` for the bundle's TensorRT
            engines with everything else on the GPU too (``docs/cuda.md``), or ``"auto"`` for the fastest that works.
        options: fields of :class:`pnseg_runtime.options.Options`.

    Returns:
        A segmenter; its ``backend``, ``precision`` and ``reason`` say what runs and why.

    Raises:
        BundleError: no such bundle, or one that is damaged or newer than this pnseg.
        BackendError: the backend is unknown, missing or does not start.
        TypeError, ValueError: an option that does not exist or makes no sense.
    """
    from pnseg_runtime.bundle import Bundle
    from pnseg_runtime.options import Options
    from pnseg_runtime.segmenter import Segmenter
    from pnseg_runtime.sessions import AUTO, CUDA

    bundle, chosen = Bundle.open(name_or_path), Options(**options)
    if backend == CUDA:
        from pnseg_runtime.cuda.segmenter import DeviceSegmenter

        return DeviceSegmenter(bundle, chosen)
    if backend == AUTO and bundle.manifest.engines:
        from pnseg_runtime.cuda.choice import open_fastest

        return open_fastest(bundle, chosen)
    return Segmenter(bundle, chosen, backend, cache=True)


def __getattr__(name: str) -> Any:
    # SciPy, OpenCV and pydantic are loaded when a segmenter is wanted, not for --help.
    if name == "Segmenter":
        from pnseg_runtime.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
