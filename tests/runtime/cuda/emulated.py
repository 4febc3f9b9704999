"""The kernels on the CPU: built by g++ from the sources that the GPU's compiler reads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pnseg_runtime.cuda.binaries import KERNELS, kernel_names

HERE = Path(__file__).parent / "emulation"
#: What the tests build is kept between runs, by the hash of what it is built from.
BUILD = Path(__file__).parents[3] / "build" / "cuda-tests"
GUARD = 256
FLAGS = ["-O1", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden"]


class EmulationError(Exception):
    """What a kernel did that it must not do."""


def compiler() -> str:
    """The C++ compiler, or the end of the test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernels are emulated on Linux alone")
    found = shutil.which("g++")
    if not found:
        pytest.skip("there is no g++ to build the kernels for the CPU with")
    return found


def compiled(name: str, sources: Sequence[Path], flags: Sequence[str], text: str = "") -> Path:
    """A shared library of C++ text and the files that it includes, built once."""
    digest = hashlib.sha256("\0".join([text, *flags]).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    folder = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    library = folder / f"{name}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unit, draft = folder / f"unit{os.getpid()}.cpp", folder / f"draft{os.getpid()}.so"
        unit.write_text(text, encoding="utf-8")
        subprocess.run([compiler(), *flags, str(unit), "-o", str(draft)], check=True)
        draft.rename(library)
    return library


def compiled_header(flags: Sequence[str]) -> Path:
    """The emulation's header, with what the compiler has read of it beside: most of a kernel's time to compile."""
    source = HERE / "cuda_emulation.h"
    digest = hashlib.sha256("\0".join(flags).encode() + source.read_bytes())
    folder = BUILD / f"header-{digest.hexdigest()[:16]}"
    header, read = folder / source.name, folder / f"{source.name}.gch"
    if not read.exists():
        folder.mkdir(parents=True, exist_ok=True)
        copy, draft = folder / f"draft{os.getpid()}.h", folder / f"draft{os.getpid()}.gch"
        shutil.copy(source, copy)
        subprocess.run([compiler(), *flags, "-w", "-x", "c++-header", str(copy), "-o", str(draft)], check=True)
        copy.rename(header)
        draft.rename(read)
    return header


def kernel_library(source: Path = KERNELS, units: Sequence[str] = ("all.cu",), flags: Sequence[str] = ()) -> Path:
    """The kernels of some of a folder's files, as a library."""
    names = [name for unit in units for name in kernel_names(source / unit)]
    flags = [*FLAGS, *flags]
    text = "\n".join(
        [f'#include "{compiled_header(flags)}"']
        + [f'#include "{source / unit}"' for unit in units]
        + [f"EMULATED({name})" for name in names]
    )
    return compiled("kernels", [HERE / "cuda_emulation.h", *source.glob("*.cu*")], flags, text)


class Emulator:
    """Launches kernels on NumPy arrays, in a shuffled order of threads."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def shuffle(self, seed: int) -> None:
        """Choose the order in which threads run; 0 is the order of their numbers."""
        self._library.emulation_seed(int(seed > 0), ctypes.c_uint(seed))

    def __call__(self, name: str, grid: Any, block: int, *arguments: Any) -> None:
        """Launch a kernel.

        Raises:
            EmulationError: threads that wait for each other in vain, or bytes written beside an array.
        """
        count = getattr(self._library, f"arguments_{name}")(None)
        sizes = (ctypes.c_int * count)()
        getattr(self._library, f"arguments_{name}")(sizes)
        assert len(arguments) == count, f"{name} takes {count} arguments, not {len(arguments)}"
        values: list[Any] = []
        guarded: list[tuple[NDArray[Any], NDArray[np.uint8]]] = []
        for argument, size in zip(arguments, sizes, strict=True):
            if isinstance(argument, np.ndarray):
                assert size == 8
                assert argument.flags.c_contiguous
                copy = np.full(argument.nbytes + 2 * GUARD, 0xCD, np.uint8)
                copy[GUARD : GUARD + argument.nbytes] = argument.reshape(-1).view(np.uint8)
                guarded.append((argument, copy))
                values.append(ctypes.c_void_p(copy.ctypes.data + GUARD))
            elif argument is None:
                values.append(ctypes.c_void_p(None))
            elif isinstance(argument, float):
                values.append(ctypes.c_float(argument) if size == 4 else ctypes.c_double(argument))
            else:
                assert size == 4
                values.append(ctypes.c_int(argument))
        grid = (*grid, 1, 1)[:3] if isinstance(grid, tuple) else (grid, 1, 1)
        dimensions = (ctypes.c_uint * 6)(*grid, block, 1, 1)
        pointers = (ctypes.c_void_p * count)(*[ctypes.addressof(value) for value in values])
        launch = getattr(self._library, f"launch_{name}")
        launch.restype = ctypes.c_char_p
        error = launch(dimensions, pointers)
        if error:
            raise EmulationError(f"{name}: {re.sub(r'  +', ' ', error.decode())}")
        for array, copy in guarded:
            if (copy[:GUARD] != 0xCD).any() or (copy[-GUARD:] != 0xCD).any():
                raise EmulationError(f"{name}: wrote beside an array")
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = copy[GUARD : GUARD + array.nbytes]
