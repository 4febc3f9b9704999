"""A backend tried in a process of its own: what a driver or provider breaks then is not the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from pnseg_runtime.bundle import Manifest
from pnseg_runtime.errors import PnsegError, ProviderError
from pnseg_runtime.sessions import BACKENDS, CUDA

#: Seconds for a backend to open a bundle and run a tile; TensorRT's provider builds its engines first.
PATIENCE = 600


@dataclass(frozen=True)
class Attempt:
    """How a backend fared with a bundle.

    Attributes:
        backend: its name.
        precision: what it was to compute in.
        ms: time of a tile with 16 prompts (of ``cuda``: of a whole sample image), None where it does not work.
        error: why it does not, one sentence.
        not_started: whether that is a provider of ONNX Runtime that is installed and does not start.
    """

    backend: str
    precision: str
    ms: float | None = None
    error: str = ""
    not_started: bool = False


def attempts(bundle: str, manifest: Manifest, threads: int | None = None) -> list[Attempt]:
    """Try every backend in every precision that both it and the bundle have, in graphs or in engines."""
    return [attempt(bundle, name, precision, threads) for name, precision in tries(manifest)]


def tries(manifest: Manifest) -> list[tuple[str, str]]:
    """Backend and precision of everything that may run a bundle; what runs engines only where it has some."""
    built = sorted({engine.precision for engine in manifest.engines})
    graphs = (*manifest.precisions, "bfloat16")
    found = [
        (name, precision)
        for name, entry in BACKENDS.items()
        for precision in entry.precisions
        if precision in (built if entry.engines else graphs)
    ]
    return [*found, *((CUDA, precision) for precision in built)]


def attempt(bundle: str, backend: str, precision: str, threads: int | None = None) -> Attempt:
    """Open a bundle with a backend and run it, in a child process."""
    command = [sys.executable, "-m", "pnseg_runtime.doctor.probe", bundle, backend, precision, str(threads or "")]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Attempt(backend, precision, error=f"{backend}: nothing came of it within {PATIENCE} s.")
    try:
        told = json.loads(child.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Attempt(
            backend, precision, error=f"{backend}: it took its process down (exit code {child.returncode}: {last})."
        )
    return Attempt(backend, precision, **told)


def run(bundle: str, backend: str, precision: str, threads: str = "") -> dict[str, float | str | bool]:
    """What the child prints."""
    from pnseg_runtime.bundle import Bundle
    from pnseg_runtime.sessions import open_sessions
    from pnseg_runtime.sessions.auto import tile_seconds

    try:
        if backend == CUDA:
            return {"ms": 1e3 * image_seconds(bundle, precision)}
        opened = Bundle.open(bundle)
        sessions = open_sessions(opened, backend, int(threads) if threads else None, precision)
        return {"ms": 1e3 * tile_seconds(opened, sessions)}
    except PnsegError as error:
        return {"error": str(error), "not_started": isinstance(error, ProviderError)}


def image_seconds(bundle: str, precision: str) -> float:
    """Time of a sample image with everything on the GPU.

    Raises:
        PnsegError: it does not work here.
    """
    from pnseg_runtime import load
    from pnseg_runtime.cuda.choice import SAMPLE, predict_seconds
    from pnseg_runtime.images import read_image

    with load(bundle, backend=CUDA, precision=precision) as segmenter:
        return predict_seconds(segmenter, read_image(SAMPLE).pixels)


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
