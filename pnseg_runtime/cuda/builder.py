"""Build the kernels for every GPU architecture: ``python -m pnseg_runtime.cuda.builder``.

Only those who change a kernel need this, and nvcc (the CUDA toolkit) or NVRTC (``pip install cuda-bindings
nvidia-cuda-nvrtc``). What it writes comes with pnseg, so that machines that predict need neither.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pnseg_runtime.cuda.binaries import ARCHITECTURES, BINARIES, KERNELS, PTX, RECORD, source_hash
from pnseg_runtime.errors import BackendError

#: Without fused multiply-adds the kernels give the bits that NumPy gives.
FLAGS = ("-std=c++17", "-fmad=false")
UNIT = KERNELS / "all.cu"

#: Architecture and whether PTX is wanted → the binary, and the compiler's log.
Compiler = Callable[[int, bool], tuple[bytes, str]]


def nvcc(architecture: int, ptx: bool) -> tuple[bytes, str]:
    """Compile with the CUDA toolkit's nvcc.

    Raises:
        BackendError: the compiler's errors.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels"
        target = [f"-arch={'compute' if ptx else 'sm'}_{architecture}", "-ptx" if ptx else "-cubin"]
        command = ["nvcc", *FLAGS, *target, "-Xptxas", "-v", UNIT.name, "-o", str(path)]
        done = subprocess.run(command, cwd=KERNELS, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BackendError(f"{UNIT}: nvcc cannot compile the kernels:\n{done.stderr}")
        return path.read_bytes(), done.stdout + done.stderr


def nvrtc(architecture: int, ptx: bool) -> tuple[bytes, str]:
    """Compile with NVRTC, which is a Python package.

    Raises:
        BackendError: the compiler's errors.
    """
    from cuda.bindings import nvrtc as library

    def call(function: Any, *arguments: Any) -> Any:
        code, *values = function(*arguments)
        if code != library.nvrtcResult.NVRTC_SUCCESS and function is not library.nvrtcCompileProgram:
            raise BackendError(f"{UNIT}: {function.__name__} failed ({code}).")
        return (code, *values) if function is library.nvrtcCompileProgram else values[0] if values else None

    def text(size: Any, get: Any) -> bytes:
        buffer = b" " * call(size, program)
        call(get, program, buffer)
        return buffer

    program = call(library.nvrtcCreateProgram, UNIT.read_bytes(), UNIT.name.encode(), 0, [], [])
    target = f"-arch={'compute' if ptx else 'sm'}_{architecture}"
    options = [option.encode() for option in (*FLAGS, target, f"-I{KERNELS}", "--ptxas-options=-v")]
    (code,) = call(library.nvrtcCompileProgram, program, len(options), options)
    log = text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog).decode()
    if code != library.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"{UNIT}: NVRTC cannot compile the kernels:\n{log}")
    size, get = (
        (library.nvrtcGetPTXSize, library.nvrtcGetPTX) if ptx else (library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN)
    )
    return text(size, get), log


def compiler() -> tuple[str, Compiler]:
    """The name of a compiler that is here, and the compiler.

    Raises:
        BackendError: there is none.
    """
    if shutil.which("nvcc"):
        version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S607
        return f"nvcc {re.findall(r'V([0-9.]+)', version)[-1]}", nvcc
    try:
        from cuda.bindings import nvrtc as library

        _, major, minor = library.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            "No CUDA compiler is here; install the CUDA toolkit, or: pip install cuda-bindings nvidia-cuda-nvrtc"
        ) from error
    return f"NVRTC {major}.{minor}", nvrtc


def resources(log: str) -> dict[str, dict[str, int]]:
    """Kernel → its registers, bytes of stack, spilled stores and loads, and shared memory, from ptxas's log."""
    found: dict[str, dict[str, int]] = {}
    for name, body in re.findall(
        r"Compiling entry function '(\w+)' for '\w+'(.*?)(?=Compiling entry|\Z)", log, re.DOTALL
    ):
        patterns = {
            "registers": r"Used (\d+) registers",
            "stack": r"(\d+) bytes stack frame",
            "spill_stores": r"(\d+) bytes spill stores",
            "spill_loads": r"(\d+) bytes spill loads",
            "shared": r"(\d+) bytes smem",
        }
        matches = {key: re.search(pattern, body) for key, pattern in patterns.items()}
        found[name] = {key: int(match[1]) if match else 0 for key, match in matches.items()}
    return dict(sorted(found.items()))


def build(folder: Path = BINARIES) -> None:
    """Build all binaries, and the record of what they are."""
    name, compile_one = compiler()
    folder.mkdir(parents=True, exist_ok=True)
    hashes, figures = {}, {}
    for architecture in ARCHITECTURES:
        for ptx in (False, True) if architecture in PTX else (False,):
            binary, log = compile_one(architecture, ptx)
            file = f"kernels.sm{architecture}.{'ptx' if ptx else 'cubin'}"
            (folder / file).write_bytes(binary)
            hashes[file] = hashlib.sha256(binary).hexdigest()
            if not ptx:
                figures[f"sm{architecture}"] = resources(log)
    document = {
        "sources": source_hash(),
        "compiler": name,
        "flags": list(FLAGS),
        "binaries": hashes,
        "resources": figures,
    }
    (folder / RECORD.name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build()
