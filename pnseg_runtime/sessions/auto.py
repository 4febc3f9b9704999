"""The fastest backend that really works on this machine, and why it is that one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.bundle import Bundle, Manifest
from pnseg_runtime.errors import BackendError, BundleError, PnsegError
from pnseg_runtime.sessions import BACKENDS, Backend, Sessions, default_precision, open_sessions

LOGGER = logging.getLogger("pnseg.sessions")

TRIAL_PROMPTS = 16
REPEATS = 3

Arrays = dict[str, NDArray[Any]]


def open_fastest(
    bundle: Bundle,
    threads: int | None = None,
    precision: str | None = None,
    leave_out: frozenset[str] = frozenset(),
    cache: bool = True,
) -> Sessions:
    """Open the networks with the fastest backend.

    Every backend that has the precision and starts is run on one window of noise. On a machine whose
    GPU works, only those of the GPU are compared; otherwise those of the CPU. What does not start is
    passed over with its reason: nobody asked for it by name.

    Args:
        bundle, threads, leave_out, cache: see :func:`pnseg_runtime.sessions.open_sessions`.
        precision: None for float32, and for the engines what they were built in.

    Raises:
        BackendError: none works.
        BundleError: the bundle has no graphs of the precision, or broken ones.
    """
    passed_over: dict[str, str] = {}
    for device in ("gpu", "cpu"):
        best: Sessions | None = None
        times: list[tuple[float, str]] = []
        for entry in candidates(device, precision, bundle.manifest):
            try:
                sessions = open_sessions(bundle, entry.name, threads, precision, leave_out, cache)
                seconds = tile_seconds(bundle, sessions)
            except PnsegError as error:
                # The backend that reads every graph cannot read this bundle's, or it has none of the precision.
                if isinstance(error, BundleError) and entry.name == "onnxruntime":
                    raise
                LOGGER.debug("%s", error)
                passed_over[entry.name] = f"{entry.name}: {str(error).removeprefix(f'{entry.name}: ')}"
                continue
            if best is None or seconds < min(times)[0]:
                best = sessions  # the slower one is let go of here
            times.append((seconds, entry.name))
        if best is not None:
            reason = because_of(best, sorted(times), list(passed_over))
            LOGGER.info("auto: %s", reason)
            return replace(best, reason=reason, passed_over=tuple(passed_over.values()))
    told = " ".join(passed_over.values())
    raise BackendError(f"auto: no backend starts ({told}); run pnseg doctor to see what is missing.")


def candidates(device: str, precision: str | None, manifest: Manifest) -> Iterator[Backend]:
    """Backends of a device that have the precision, in the registry's order; the engines if the bundle has any."""
    return (
        entry
        for entry in BACKENDS.values()
        if entry.device == device
        and (precision or default_precision(entry.name, manifest)) in entry.precisions
        and (manifest.engines or not entry.engines)
    )


def tile_seconds(bundle: Bundle, sessions: Sessions) -> float:
    """Time of all three networks on one window with a few prompts; the best of some runs, the first apart.

    Raises:
        BackendError: a network does not run, or gives values that are no numbers.
    """
    times = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        outputs = run_tile(bundle, sessions)
        times.append(time.perf_counter() - start)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise BackendError(f"{sessions.backend}: {name} is not finite on a test image.")
    return min(times[1:])


def run_tile(bundle: Bundle, sessions: Sessions, prompts: int = TRIAL_PROMPTS) -> Arrays:
    """Run all three networks once on one window of noise; gives the prompter's and the decoder's outputs."""
    generator = np.random.default_rng(0)
    side = bundle.manifest.masking.window
    image: Arrays = {"image": generator.standard_normal((1, 3, side, side), np.float32)}
    asked: Arrays = {
        "point_coords": side * generator.random((prompts, 1, 2), np.float32),
        "point_labels": np.ones((prompts, 1), np.float32),
        "image_index": np.zeros(prompts, np.int64),
    }
    return {**sessions.prompter(image), **sessions.decoder({**sessions.encoder(image), **asked})}


def because_of(best: Sessions, times: list[tuple[float, str]], passed_over: list[str]) -> str:
    """Why it is this one, in one sentence."""
    told = ", ".join(f"{other} {1e3 * seconds:.0f} ms" for seconds, other in times)
    engines = f" ({best.precision} engines)" if best.backend in BACKENDS and BACKENDS[best.backend].engines else ""
    reason = f"{best.backend}{engines} is the fastest that works here ({told} for a tile"
    return f"{reason}; not here: {', '.join(passed_over)})." if passed_over else f"{reason})."
