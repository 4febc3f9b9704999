"""What the tests of the host code run in: a stand-in driver, and PyCUDA built against it.

Both are built once, below ``build/``, where the headers of a CUDA toolkit are found; elsewhere the tests are skipped.
PyCUDA comes as source only: it takes about half a minute.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runtime.cuda.emulated import BUILD, HERE, compiled, compiler, kernel_library

PYCUDA = "2026.1"
BESIDE_NUMPY = ("pytools", "mako")  # what PyCUDA needs
ROOT = Path(__file__).parents[3]


def toolkit() -> Path:
    """The folder of a CUDA toolkit, or the end of the test."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", nvcc and Path(nvcc).resolve().parents[1]]
    for candidate in candidates:
        if candidate and all((Path(candidate) / "include" / name).is_file() for name in ("cuda.h", "cudaProfiler.h")):
            return Path(candidate)
    pytest.skip("there are no headers of a CUDA toolkit (cuda.h, cudaProfiler.h) to build PyCUDA with")


def driver_library() -> Path:
    """The folder of a ``libcuda.so.1``: the stand-in, and an error for every function that it lacks."""
    include = toolkit() / "include"
    headers = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    command = [compiler(), "-E", "-P", "-x", "c++", f"-I{include}", "-"]
    declared = subprocess.run(command, input=headers, capture_output=True, text=True, check=True).stdout
    names = sorted(set(re.findall(r"CUresult\s+(cu\w+)\s*\(", declared)))
    source = HERE / "stand_in.cpp"
    implemented = set(re.findall(r"^API (cu\w+)\(", source.read_text(encoding="utf-8"), re.MULTILINE))
    stubs = [f'EXTRA int {name}_missing() asm("{name}"); int {name}_missing() {{ return 801; }}' for name in names]
    text = "\n".join(
        [f'#include "{source}"'] + [stub for name, stub in zip(names, stubs, strict=True) if name not in implemented]
    )
    flags = ["-O1", "-std=c++17", "-fPIC", "-shared", "-w", f"-I{include}", "-Wl,-soname,libcuda.so.1", "-pthread"]
    library = compiled("libcuda", [source], flags, text)
    for name in ("libcuda.so.1", "libcuda.so"):
        if not (link := library.parent / name).exists() and library != link:
            shutil.copy(library, link)
    return library.parent


def pycuda_folder() -> Path:
    """A folder with PyCUDA and what it needs, to be put in front of ``PYTHONPATH``."""
    tag = f"{sys.version_info.major}{sys.version_info.minor}"
    folder = BUILD / f"pycuda-{PYCUDA}-{tag}"
    cuda = toolkit()
    with alone(folder):
        if folder.exists():
            return folder
        with tempfile.TemporaryDirectory(dir=BUILD) as place:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
            # With the setuptools and NumPy that are there, instead of an environment of its own for each step.
            here = "--no-build-isolation"
            fetch = [*pip, "download", here, "--no-deps", "--no-binary", "pycuda", "--dest", place, f"pycuda=={PYCUDA}"]
            subprocess.run(fetch, check=True)
            with tarfile.open(next(Path(place).glob("pycuda-*.tar.gz"))) as archive:
                archive.extractall(place, filter="data")
            source = Path(place) / f"pycuda-{PYCUDA}"
            settings = {
                "CUDA_ROOT": str(cuda),
                "CUDA_ENABLE_CURAND": False,
                "CUDADRV_LIB_DIR": [str(driver_library())],
                "CXXFLAGS": ["-O0", "-g0", "-w"],
            }
            lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
            (source / "siteconf.py").write_text("".join(lines), encoding="utf-8")
            done = Path(place) / "done"
            install = [*pip, "install", "--no-compile", "--target", str(done)]
            subprocess.run([*install, *BESIDE_NUMPY], check=True)
            reader = shlex.join([sys.executable, str(HERE.parent / "precompiled.py"), place, compiler()])
            build = [*install, here, "--no-deps", str(source)]
            subprocess.run(build, check=True, env=os.environ | {"CXX": reader})
            done.rename(folder)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process at a time makes a folder."""
    import fcntl

    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def variables(kernels: Path | None = None, tensorrt: bool = False) -> dict[str, str]:
    """Environment of a process that sees the stand-in for a GPU, and the one for TensorRT if asked for."""
    paths = [str(ROOT), str(pycuda_folder())]
    if tensorrt:
        paths.insert(0, str(HERE / "libraries"))
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(driver_library()), os.environ.get("LD_LIBRARY_PATH")])),
        "PYTHONPATH": os.pathsep.join(paths),
        "STAND_IN_KERNELS": str(kernels or kernel_library()),
        "OMP_NUM_THREADS": "2",
    }
