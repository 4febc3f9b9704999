"""Who is compared: ways to run a bundle's networks that this machine has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pnseg_export.precision.variants import sessions_of
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError
from pnseg_runtime.sessions import BACKENDS, Opening, Sessions, load_backend, open_sessions


@dataclass(frozen=True)
class Participant:
    """One way to run the networks.

    Attributes:
        name: e.g. ``ONNX Runtime float16``.
        precision: what it computes in, which sets how close it must come.
        open: opens the networks; nothing heavy happens before.
    """

    name: str
    precision: str
    open: Callable[[], Sessions]


def pytorch(prompter: Path, segmentor: Path) -> Participant:
    """The checkpoints that a bundle was made from."""

    def opened() -> Sessions:
        from pnseg_train.inference import load_pair, torch_sessions

        return torch_sessions(*load_pair(prompter, segmentor)[:2])

    return Participant("PyTorch", "float32", opened)


def participants(bundle: Bundle, threads: int | None = None) -> list[Participant]:
    """Every precision on ONNX Runtime, OpenVINO where it is installed, GPU backends and engines where they start.

    A backend that makes bfloat16 of the float32 graphs takes part in that too.
    """
    graphs = (*bundle.manifest.precisions, "bfloat16")
    found = [
        Participant(f"ONNX Runtime {precision}", precision, partial(sessions_of, bundle, precision, threads))
        for precision in bundle.manifest.precisions
    ]
    for backend in BACKENDS.values():
        if backend.name == "onnxruntime":
            continue
        built = tuple(dict.fromkeys(engine.precision for engine in bundle.manifest.engines))
        found += [
            Participant(
                f"{backend.name} {precision}",
                precision,
                partial(open_sessions, bundle, backend.name, threads, precision, cache=False),
            )
            for precision in (built if backend.engines else graphs)
            if precision in backend.precisions and _starts(backend.name, precision)
        ]
    return found


def _starts(name: str, precision: str) -> bool:
    """Whether a backend computes in ``precision`` on this machine; OpenVINO's 8 bits ask for VNNI, for one."""
    backend = BACKENDS[name]
    if importlib.util.find_spec(backend.needs.partition(".")[0]) is None:
        return False
    try:
        return load_backend(backend).problem(Opening(backend=name, precision=precision)) is None
    except BackendError:
        return False
