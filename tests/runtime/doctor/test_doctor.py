import json
import sys

import pytest
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.cli import doctor as verb
from pnseg_runtime.cuda.nvidia import Driver, Gpu
from pnseg_runtime.doctor import probe
from pnseg_runtime.doctor.facts import Facts

SOUND = Facts(cpu="AMD EPYC", flags=("avx2",), packages={"onnxruntime": "1.32.0"})


@pytest.fixture
def machine(monkeypatch):
    """Put facts in the place of this machine's."""

    def put(facts):
        monkeypatch.setattr(verb, "gather", lambda: facts)

    put(SOUND)
    return put


def run(*arguments):
    return CliRunner().invoke(cli, ["doctor", *arguments])


def test_a_sound_machine_is_one_page_and_exit_code_0(machine):
    result = run("--no-try")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line and not line.startswith(" ")] == [
        "Machine",
        "Packages",
        "What to do",
    ]
    assert result.stdout.endswith("  nothing\n")


def test_a_problem_is_told_with_its_remedy_and_exit_code_1(machine):
    machine(Facts(packages={"onnxruntime": "1", "onnxruntime-gpu": "1"}))
    result = run("--no-try")
    assert result.exit_code == 1
    assert "PROBLEM: onnxruntime and onnxruntime-gpu are both installed" in result.stdout
    assert "→ pip uninstall -y onnxruntime onnxruntime-gpu" in result.stdout
    assert result.stderr == "Error: 1 problem found\n"


def test_the_gpu_and_driver_are_shown(machine):
    machine(Facts(driver=Driver((13, 0), "580.82", 0, (Gpu("RTX 3090", (8, 6), 24.0),)), packages={"pycuda": "1"}))
    result = run("--no-try")
    assert "580.82, CUDA up to 13.0" in result.stdout
    assert "RTX 3090, sm86, 24 GiB" in result.stdout


def test_a_bundle_that_is_not_there_is_a_problem(machine, tmp_path):
    result = run("--no-try", str(tmp_path))
    assert result.exit_code == 1
    assert "no bundle here" in result.stdout


def test_json_is_one_document(machine):
    document = json.loads(run("--no-try", "--json").stdout)
    assert set(document) == {"machine", "backends", "engines", "findings"}


def test_a_backend_is_tried_in_a_process_of_its_own():
    found = probe.attempt("nano", "onnxruntime", "float32", threads=1)
    assert found.error == ""
    assert found.ms is not None
    assert found.ms > 0


def test_a_backend_that_does_not_work_says_why():
    found = probe.attempt("nano", "onnxruntime-cuda", "float32")
    assert found.ms is None
    assert "onnxruntime-cuda" in found.error


@pytest.mark.parametrize("listed", [False, True])
def test_a_provider_that_is_there_and_does_not_start_is_told_from_one_that_is_not(listed, monkeypatch):
    import onnxruntime

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names if listed else names[1:])
    told = probe.run("nano", "onnxruntime-cuda", "float32")
    assert told["error"]
    assert told["not_started"] is listed


def test_a_backend_that_takes_its_process_down_is_told(monkeypatch, tmp_path):
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\necho 'Segmentation fault' >&2\nexit 139\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    found = probe.attempt("nano", "onnxruntime-cuda", "float32")
    assert "took its process down (exit code 139: Segmentation fault)" in found.error
