import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pnseg_runtime import sessions
from pnseg_runtime.errors import BackendError
from pnseg_runtime.sessions import BACKENDS, open_sessions
from tests.fakes import fake_bundle


def test_an_unknown_backend_is_told_with_the_known_ones():
    with pytest.raises(BackendError, match=r"abacus.*onnxruntime"):
        open_sessions(fake_bundle(), "abacus")


def test_a_backend_whose_package_is_missing_says_what_to_install(monkeypatch):
    absent = replace(
        BACKENDS["onnxruntime"], name="absent", module="pnseg_runtime.sessions.absent", install="pip install absent"
    )
    monkeypatch.setitem(sessions.BACKENDS, "absent", absent)
    with pytest.raises(BackendError, match="pip install absent"):
        open_sessions(fake_bundle(), "absent")


def test_every_backend_stands_under_its_own_name():
    assert all(name == backend.name for name, backend in BACKENDS.items())


@pytest.mark.parametrize("module", ["pnseg_runtime", "pnseg_runtime.sessions"])
def test_nothing_heavy_is_imported_before_it_is_used(module):
    code = f"import sys, {module}; print(sorted({{'onnxruntime', 'torch', 'cv2', 'scipy'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_extra_brings_a_second_onnx_runtime():
    # pip installs what has extras of its own first, so the CPU's would lie over the GPU's, in the same folder.
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'"(onnxruntime[\w-]*)[\[>=]', text) == ["onnxruntime"]


def test_what_a_backend_that_does_not_start_has_one_run_is_a_command():
    assert not [name for name, backend in BACKENDS.items() if not backend.install.startswith(("pip ", "pnseg "))]
