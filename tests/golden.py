"""Golden values of the published reference implementation, and the checkpoints they were made with.

``tests/data/README.md`` says what each file holds.

The checkpoints have random weights, most of them drawn by an initialiser from a seeded Mersenne
Twister. Such a tensor is stored as its place in that stream, from which it is drawn again bit for
bit; every other tensor is stored as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfinv

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden"
TILES = DATA / "cc0_tiles"

Arrays = dict[str, NDArray[Any]]


def document(name: str) -> dict[str, Any]:
    """The JSON beside a golden set, e.g. the network's ``config``."""
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return content


def arrays(name: str) -> Arrays:
    """Inputs and outputs of a golden set, by name."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def weights(name: str) -> Arrays:
    """A network's parameters and buffers in the published key order, as arrays."""
    state = document(name)["state"]
    draws = _draws(state["seed"], state["draws"])
    with np.load(GOLDEN / f"{name}.weights.npz") as stored:
        return {
            key: stored[key] if place is None else _fixed(_draw(draws, **place), key, stored)
            for key, place in state["tensors"].items()
        }


def fingerprint(tensors: Arrays) -> str:
    """Hex SHA-256 over names and bytes of a state dict's arrays, in order."""
    digest = hashlib.sha256()
    for key, array in tensors.items():
        digest.update(key.encode() + array.tobytes())
    return digest.hexdigest()


def checkpoint(name: str) -> dict[str, Any]:
    """A checkpoint in the published layout: ``model`` (state dict of tensors), ``epoch``, ``metrics``…"""
    import torch

    model = OrderedDict((key, torch.from_numpy(array.copy())) for key, array in weights(name).items())
    return {"model": model, **document(name)["checkpoint"]}


def save_checkpoint(name: str, path: Path) -> Path:
    """Write :func:`checkpoint` as the ``.pth`` file that was published in this layout."""
    import torch

    torch.save(checkpoint(name), path)
    return path


def _draws(seed: int, count: int) -> NDArray[np.float64]:
    """The first ``count`` 24-bit uniform numbers in [0, 1) of a seeded Mersenne Twister (MT19937)."""
    words = np.random.RandomState(seed).randint(0, 2**32, count, dtype=np.uint32)
    return (words & 0xFFFFFF) / 2.0**24


def _draw(draws: NDArray[np.float64], law: str, offset: int, scale: float, shape: list[int]) -> NDArray[np.float32]:
    """Uniform in ±scale, or normal with standard deviation ``scale`` (by the inverse error function)."""
    uniform = draws[offset : offset + int(np.prod(shape))]
    if law == "uniform":
        low, high = np.float32(-scale), np.float32(scale)
        values = uniform * np.float64(high - low) + np.float64(low)
    else:
        values = erfinv(2 * uniform - 1).astype(np.float32) * np.float32(scale * 2**0.5)
    return values.astype(np.float32).reshape(shape)


def _fixed(drawn: NDArray[np.float32], key: str, stored: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Put right the few values whose last bit another inverse error function rounded differently."""
    if f"{key}.fix_at" in stored:
        drawn.flat[stored[f"{key}.fix_at"]] = stored[f"{key}.fix_value"]
    return drawn
