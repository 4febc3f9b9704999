"""The runtime works where nothing else of the project and no training library can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pnseg_runtime.outputs import KINDS
from tests.runtime.made import SAMPLES

ROOT = Path(__file__).parents[2]

# Runs first in a fresh interpreter; what follows it meets an ImportError for any of these.
REFUSE = """
import sys

class Refuse:
    refused = {"torch", "torchvision", "timm", "onnx", "segment_anything", "pnseg_train", "pnseg_export", "benchmarks"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.refused:
            raise ImportError(f"{name} was imported by the runtime", name=name)

sys.meta_path.insert(0, Refuse())
"""
IMPORT_ALL = """
import importlib, pkgutil, pnseg_runtime
for module in pkgutil.walk_packages(pnseg_runtime.__path__, "pnseg_runtime."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # of an extra that is not installed
            if error.name not in ("openvino", "tensorrt", "tensorrt_rtx", "pycuda"):
                raise
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REFUSE + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_refusal_refuses() -> None:
    assert "torch was imported by the runtime" in python("import torch").stderr


def test_every_module_of_the_runtime_imports_without_torch() -> None:
    finished = python(IMPORT_ALL)
    assert finished.returncode == 0, finished.stderr


def test_predict_outlines_nuclei_without_torch(tmp_path: Path) -> None:
    finished = python(
        "from pnseg_runtime.cli import main; main()", "predict", SAMPLES / "purple_crowded.png", "--out", tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    expected = sorted(f"purple_crowded{kind.suffix}" for kind in KINDS.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
