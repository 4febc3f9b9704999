"""A bundle's engines wherever a backend can be named, on stand-ins for the driver and for TensorRT."""

import json
import subprocess
import sys

import pytest

from tests.runtime.cuda import environment
from tests.runtime.cuda.made_engines import bundle_with_engines

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


FAULTS = {
    "a host that does not wait for the outputs": (
        "addresses[name])\n        self._stream.synchronize()",
        "addresses[name])",
    ),
    "inputs that are not sent": ("        self._device.upload(self._stream, address, staging)\n", ""),
    "rows that nobody asked for": ("np.copyto(own, values[:count])", "np.copyto(own, values[-count:])"),
    "all inputs in one staging memory": ('self._memory.staging(f"to.{name}"', 'self._memory.staging("to"'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(variables, bundle, fault):
    done = scenario(variables, "networks", bundle, MODULE, *FAULTS[fault])
    assert done.returncode != 0, "the nuclei are those of the CPU"
    assert "or others than the CPU's" in done.stderr, done.stderr
