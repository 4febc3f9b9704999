"""A bundle's engines wherever a backend can be named, on stand-ins for the driver and for TensorRT."""

import json
import re
import subprocess
import sys

import pytest

from pnseg_export.engines.profiles import Buckets
from pnseg_runtime import load
from pnseg_runtime.images import read_image
from tests.runtime.cuda import environment
from tests.runtime.cuda.made_engines import bundle_with_engines
from tests.runtime.made import SAMPLES

pytestmark = pytest.mark.slow
MODULE = "pnseg_runtime.sessions.tensorrt"


@pytest.fixture(scope="session")
def variables():
    """Environment of a process that sees a GPU and TensorRT."""
    return environment.variables(tensorrt=True)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return bundle_with_engines(tmp_path_factory.mktemp("engines") / "mine")


def python(variables, *arguments, timeout=300):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=variables, cwd=environment.ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def scenario(variables, name, bundle, *fault):
    return python(variables, "-m", "tests.runtime.cuda.engine_scenarios", name, bundle, *fault)


def result(variables, name, bundle):
    done = scenario(variables, name, bundle)
    assert done.returncode == 0, done.stderr
    assert "PyCUDA" not in done.stderr, done.stderr  # warnings of things that were not let go of in order
    return json.loads(done.stdout.splitlines()[-1])


def test_engines_as_plain_networks_give_the_nuclei_of_the_cpu(variables, bundle, tmp_path):
    log = tmp_path / "calls"
    found = result(variables | {"STAND_IN_ENGINE_LOG": str(log)}, "networks", bundle)
    assert all(count > 5 for count in found["nuclei"])
    assert found["left"] == 0, "device memory that is not freed"
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    prompts = {call["image_index"][0] for call in calls if "image_index" in call}
    windows = {call["image"][0] for call in calls if call.get("image", [0, 0, 0])[2] == 256}
    assert prompts <= {16, 32, 64}, "an engine prepares itself anew for every number"
    assert windows <= {1, 2, 4, 8}


def test_test_time_augmentation_runs_on_engines(variables, bundle):
    assert all(count > 5 for count in result(variables, "augmented", bundle)["nuclei"])


def test_everything_on_the_gpu_gives_the_nuclei_of_the_cpu_through_tensorrts_calls(variables, bundle):
    assert all(count > 5 for count in result(variables, "device", bundle)["nuclei"])


def test_image_follows_image_without_new_memory(variables, bundle):
    found = result(variables, "steady", bundle)
    assert found["nuclei"] > 5
    assert found["grown"] == 0


def test_services_have_the_engines_both_ways(variables, bundle):
    found = result(variables, "service", bundle)
    assert found["cuda"] == found["tensorrt"]
    assert found["cuda reason"] == "cuda was asked for."
    assert found["tensorrt reason"] == "tensorrt was asked for."
    assert found["cuda precision"] == found["tensorrt precision"] == "float16"


def test_the_doctor_tries_both_ways_to_run_engines(variables, bundle):
    done = python(variables, "-m", "pnseg_runtime.cli", "doctor", bundle, "--threads", 2, "--json")
    document = json.loads(done.stdout)
    tried = {(each["backend"], each["precision"]): each for each in document["backends"]}
    for backend in ("tensorrt", "cuda"):
        assert tried[backend, "float16"]["error"] == ""
        assert tried[backend, "float16"]["ms"] > 0
    assert len(document["engines"]) == 3


def test_the_doctor_tells_an_engine_that_does_not_load(variables, tmp_path):
    broken = bundle_with_engines(tmp_path / "broken", damaged="encoder")
    for backend in ("tensorrt", "cuda"):
        done = python(variables, "-m", "pnseg_runtime.doctor.probe", broken, backend, "float16")
        assert "encoder.engine: tensorrt 11.4.0 cannot load this engine" in json.loads(done.stdout)["error"]


def test_auto_says_which_it_takes_and_why_it_is_nothing_else(variables, bundle, tmp_path):
    image = SAMPLES / "he_pink.png"
    options = ("--bundle", bundle, "--backend", "auto", "--only", "csv", "--out", tmp_path)
    done = python(variables, "-m", "pnseg_runtime.cli", "predict", image, *options)
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert re.match(r"Backend: (cuda \(float16 engines\)|tensorrt \(float16 engines\)) is the fastest that", first)
    assert "passed over onnxruntime-cuda: this ONNX Runtime has no CUDAExecutionProvider" in done.stderr
    assert len((tmp_path / "he_pink.csv").read_text().splitlines()) > 6


def test_auto_passes_over_engines_that_do_not_load(variables, tmp_path):
    broken = bundle_with_engines(tmp_path / "broken", damaged="decoder")
    options = ("--bundle", broken, "--backend", "auto", "--only", "csv", "--out", tmp_path / "out")
    done = python(variables, "-m", "pnseg_runtime.cli", "predict", SAMPLES / "he_pink.png", *options)
    assert done.returncode == 0, done.stderr
    for backend in ("cuda", "tensorrt"):
        assert re.search(rf"passed over {backend}: \S+decoder.engine: tensorrt 11.4.0 cannot load", done.stderr)


@pytest.mark.parametrize(("backend", "code"), [("tensorrt", 1), ("cuda", 1), ("auto", 0)])
def test_a_tensorrt_that_does_not_start_is_told_or_passed_over(variables, bundle, tmp_path, backend, code):
    options = ("--bundle", bundle, "--backend", backend, "--only", "csv", "--out", tmp_path)
    broken = variables | {"STAND_IN_NO_RUNTIME": "1"}
    done = python(broken, "-m", "pnseg_runtime.cli", "predict", SAMPLES / "he_pink.png", *options)
    assert done.returncode == code, done.stderr
    assert "tensorrt 11.4.0 does not start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("backend", "fails", "code"),
    [("tensorrt", "function", 1), ("cuda", "function", 1), ("cuda", "tidy_masks", 1), ("auto", "tidy_masks", 0)],
)
def test_a_gpu_that_fails_while_it_predicts_is_told_or_passed_over(variables, bundle, tmp_path, backend, fails, code):
    options = ("--bundle", bundle, "--backend", backend, "--only", "csv", "--out", tmp_path)
    broken = variables | {"STAND_IN_FAILS": fails}
    done = python(broken, "-m", "pnseg_runtime.cli", "predict", SAMPLES / "he_pink.png", *options)
    assert done.returncode == code, done.stderr
    assert "CUDA: what was put on a stream" in done.stderr
    assert "Traceback" not in done.stderr
    if backend == "auto":
        assert re.search("passed over cuda: CUDA: what was put on a stream", done.stderr)
        assert len((tmp_path / "he_pink.csv").read_text().splitlines()) > 6


def test_a_slide_runs_on_engines(variables, bundle, tmp_path):
    options = ("--bundle", bundle, "--backend", "tensorrt", "--mpp", 0.25, "--no-tissue", "--only", "parquet")
    done = python(
        variables, "-m", "pnseg_runtime.cli", "slide", SAMPLES / "he_pink.png", *options, "--out", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["slides"][0]["nuclei"] > 5


def test_a_slide_refuses_cuda_in_one_sentence(variables, bundle, tmp_path):
    slide, options = SAMPLES / "he_pink.png", ("--bundle", bundle, "--out", tmp_path)
    done = python(variables, "-m", "pnseg_runtime.cli", "slide", slide, *options, "--backend", "cuda")
    assert done.returncode == 2
    assert "choose tensorrt, which runs the same engines" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["sm89"]}, "no float16 engine of prompter, encoder, decoder for sm86 and tensorrt 11.4.0"),
        ({"version": "11.0.0"}, "no float16 engine of prompter, encoder, decoder for sm86 and tensorrt 11.4.0"),
    ],
)
@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_engines_for_another_machine_are_told_in_one_sentence(variables, tmp_path, backend, changes, told):
    other = bundle_with_engines(tmp_path / "other", **changes)
    options = ("--bundle", other, "--out", tmp_path / "out", "--backend", backend)
    done = python(variables, "-m", "pnseg_runtime.cli", "predict", SAMPLES / "he_pink.png", *options)
    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_images_larger_than_the_engines_were_built_for_are_seen_in_parts_that_they_take(variables, tmp_path, backend):
    small = bundle_with_engines(tmp_path / "small", Buckets(batches=(1, 2), prompts=(8, 16), side=256))
    options = ("--bundle", small, "--out", tmp_path / "out", "--backend", backend, "--only", "csv")
    done = python(variables, "-m", "pnseg_runtime.cli", "predict", SAMPLES / "he_pink.png", *options)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "out" / "he_pink.csv").read_text().splitlines()
    parts = load("nano", macro_tile=256, macro_margin=64).predict(read_image(SAMPLES / "he_pink.png").pixels)
    assert len(found) == 1 + len(parts) > 6


@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_more_negatives_than_the_engines_were_built_for_are_told_with_the_remedy(variables, bundle, tmp_path, backend):
    options = ("--bundle", bundle, "--out", tmp_path / "out", "--backend", backend, "--negatives", "3")
    done = python(variables, "-m", "pnseg_runtime.cli", "predict", SAMPLES / "he_pink.png", *options)
    assert done.returncode == 1
    assert re.search(r"takes no point_coords of \d+×4×2", done.stderr)
    assert "take as many negative prompts as the bundle says" in done.stderr


FAULTS = {
    "a host that does not wait for the outputs": (
        "addresses[name])\n        self._device.synchronise(self._stream)",
        "addresses[name])",
    ),
    "inputs that are not sent": ("        self._device.upload(self._stream, address, staging)\n", ""),
    "rows that nobody asked for": ("np.copyto(own, values[:count])", "np.copyto(own, values[-count:])"),
    "all inputs in one staging memory": ('self._memory.staging(f"to.{name}"', 'self._memory.staging("to"'),
}


CONTEXT_FAULTS = {
    "a context that serves several shapes": (
        "if self._captured else (profile,)",
        "if False else (profile,)",
        "a graph whose context has been changed since",
    ),
    "a context that is told again what it knows": (
        "        if shapes == self._shapes:",
        "        if False:",
        "a graph whose context has been changed since",
    ),
    "a context without memory": (
        "            self._context.set_device_memory(place, self._size)\n",
        "",
        "has not been given the memory that it needs",
    ),
    "less memory than a context needs": (
        "set_device_memory(place, self._size)",
        "set_device_memory(place, self._size // 2)",
        "has not been given the memory that it needs",
    ),
}


def test_images_in_both_places_are_served_by_the_same_contexts(variables, bundle):
    found = result(variables, "images_in_turn", bundle)
    assert all(count > 5 for count in found["nuclei"])
    assert found["graphs"] > 0


@pytest.mark.parametrize("fault", CONTEXT_FAULTS)
def test_a_fault_in_the_use_of_execution_contexts_is_found(variables, bundle, fault):
    old, new, told = CONTEXT_FAULTS[fault]
    done = scenario(variables, "images_in_turn", bundle, "pnseg_runtime.cuda.tensorrt", old, new)
    assert done.returncode != 0, "the nuclei are those of the CPU"
    assert told in done.stderr, done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(variables, bundle, fault):
    done = scenario(variables, "networks", bundle, MODULE, *FAULTS[fault])
    assert done.returncode != 0, "the nuclei are those of the CPU"
    assert "or others than the CPU's" in done.stderr, done.stderr
