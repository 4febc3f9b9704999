"""The kernels' sources, and the binaries that were built from them and come with pnseg."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pnseg_runtime.errors import BackendError

KERNELS = Path(__file__).parent / "kernels"
BINARIES = Path(__file__).parent / "bin"
RECORD = BINARIES / "kernels.json"

#: Compute capabilities that have a binary of their own; newer GPUs compile the PTX of the last one when they load it.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
#: Compute capabilities of Tegra (Xavier, Orin, Thor), which runs no binary of a card's.
TEGRA = {(7, 2), (8, 7), (10, 1), (11, 0)}


def kernel_names(source: Path) -> list[str]:
    """Kernels of a source file and of those that it includes, in order."""
    text = source.read_text(encoding="utf-8")
    names = []
    for line in text.splitlines():
        if included := re.match(r'#include "(.+\.cu)"', line):
            names += kernel_names(source.parent / included[1])
        elif found := re.match(r"KERNEL (\w+)\(", line):
            names.append(found[1])
    return names


def source_hash() -> str:
    """Hex SHA-256 of all kernel sources."""
    digest = hashlib.sha256()
    for path in sorted(KERNELS.glob("*.cu*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def record() -> dict[str, Any]:
    """What the binaries were built from and with, and each kernel's registers and spills by architecture."""
    document: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return document


def binary_for(capability: tuple[int, int]) -> bytes:
    """The module of all kernels for a GPU.

    A card runs binaries of its major capability and of its minor one or an earlier one; where there is none, and on
    Tegra, the driver compiles PTX.

    Args:
        capability: (major, minor) of the GPU.

    Raises:
        BackendError: a GPU older than all binaries, or binaries that are not those of the record.
    """
    major, minor = capability
    fitting = [arch for arch in ARCHITECTURES if arch // 10 == major and arch % 10 <= minor and capability not in TEGRA]
    if not fitting and major * 10 + minor < ARCHITECTURES[0]:
        raise BackendError(
            f"This GPU has compute capability {major}.{minor}, and pnseg's kernels need {ARCHITECTURES[0] / 10} or "
            "later; predict with --backend onnxruntime."
        )
    name = f"kernels.sm{max(fitting)}.cubin" if fitting else f"kernels.sm{ptx_architecture(capability)}.ptx"
    path = BINARIES / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != record()["binaries"].get(name):
        raise BackendError(f"{path}: missing or not the file that was built with pnseg; install pnseg again.")
    return path.read_bytes()


def ptx_architecture(capability: tuple[int, int]) -> int:
    """Of the architectures that have PTX, the newest that is not newer than the GPU."""
    return max(arch for arch in PTX if arch <= capability[0] * 10 + capability[1])


#: The oldest serves GPUs in between, the newest those to come.
PTX = (ARCHITECTURES[0], ARCHITECTURES[-1])
