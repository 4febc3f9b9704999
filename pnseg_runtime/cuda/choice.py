"""``auto`` for a bundle with engines: everything on the GPU, or only the networks, whichever is faster on an image."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.cuda.nvidia import find_driver
from pnseg_runtime.cuda.segmenter import DeviceSegmenter
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.images import read_image
from pnseg_runtime.options import Options
from pnseg_runtime.pixels import Pixels
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import AUTO, CUDA

LOGGER = logging.getLogger("pnseg.sessions")

#: Of the images that come with pnseg: one with nuclei, so that all of the work is done.
SAMPLE = Path(__file__).parents[1] / "samples" / "he_pink.png"
WARM_UP, REPEATS = 2, 3


def open_fastest(bundle: Bundle, options: Options) -> Segmenter | DeviceSegmenter:
    """Open a bundle with whatever is fastest, the path that is all on the GPU included.

    That path and the fastest of the backends in :data:`pnseg_runtime.sessions.BACKENDS` both predict an
    image that comes with pnseg. Without an NVIDIA driver nothing of the GPU's is imported.

    Raises:
        BackendError, BundleError: as :class:`pnseg_runtime.segmenter.Segmenter` with ``auto``.
    """
    image = read_image(SAMPLE).pixels
    opened = open_device(bundle, options, image)
    plain = Segmenter(bundle, options, AUTO, cache=True)
    if isinstance(opened, str):
        return noted(plain, opened)
    device, own = opened
    try:
        other = predict_seconds(plain, image)
    except PnsegError as error:
        plain.close()
        return chosen(device, "it alone predicts a sample image", f"{plain.backend}: {error}")
    times = f"{CUDA} {1e3 * own:.0f} ms, {plain.backend} {1e3 * other:.0f} ms for a sample image"
    if other < own:
        device.close()
        return noted(plain, f"{CUDA}: it works and is slower here ({times}).")
    passed_over = plain.passed_over
    plain.close()
    return chosen(device, times, *passed_over)


def open_device(bundle: Bundle, options: Options, image: Pixels) -> tuple[DeviceSegmenter, float] | str:
    """The path that is all on the GPU and its time for an image, or the sentence why it does not work."""
    if (problem := find_driver().problem) is not None:
        return f"{CUDA}: {problem}."
    try:
        device = DeviceSegmenter(bundle, options)
    except PnsegError as error:
        return f"{CUDA}: {error}"
    try:
        return device, predict_seconds(device, image)
    except PnsegError as error:
        with suppress(PnsegError):  # a GPU that has failed may fail once more
            device.close()
        return f"{CUDA}: {error}"


def predict_seconds(segmenter: Segmenter | DeviceSegmenter, image: Pixels) -> float:
    """Time of a prediction; the best of some, behind those in which things are prepared and recorded.

    Raises:
        BackendError: it fails.
    """
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        segmenter.predict(image)
        times.append(time.perf_counter() - start)
    return min(times[WARM_UP:])


def chosen(device: DeviceSegmenter, why: str, *passed_over: str) -> DeviceSegmenter:
    """The path that is all on the GPU, with the reason for it."""
    reason = f"{CUDA} ({device.precision} engines) is the fastest that works here ({why})."
    LOGGER.info("auto: %s", reason)
    return device.explained(reason, passed_over)


def noted(plain: Segmenter, passed_over: str) -> Segmenter:
    """Another backend, with the reason why it is not this path."""
    LOGGER.info("auto: passed over %s", passed_over)
    return plain.explained(plain.reason, (passed_over, *plain.passed_over))
