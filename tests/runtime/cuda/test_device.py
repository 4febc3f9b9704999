"""The GPU path's host code, unchanged PyCUDA calls included, on a stand-in driver: the CPU's nuclei, bit for bit."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pnseg_runtime
from pnseg_runtime.cuda.driver import at_last
from pnseg_runtime.errors import BackendError
from tests.runtime.cuda import environment

pytestmark = pytest.mark.slow
CUDA = "pnseg_runtime.cuda."
PACKAGE = Path(pnseg_runtime.__file__).parent


@pytest.fixture(scope="session")
def variables():
    """Environment of a process that sees the stand-in for a GPU; the first time, PyCUDA is built."""
    return environment.variables()


def scenario(variables, name, *plant, timeout=300):
    command = [sys.executable, "-m", "tests.runtime.cuda.scenarios", name, *plant]
    return subprocess.run(
        command, env=variables, cwd=environment.ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def result(variables, name):
    done = scenario(variables, name)
    assert done.returncode == 0, done.stderr
    assert "PyCUDA" not in done.stderr, done.stderr  # warnings of things that were not let go of in order
    return json.loads(done.stdout.splitlines()[-1])


def test_every_option_gives_the_nuclei_of_the_cpu(variables):
    found = result(variables, "options")
    assert sum(found["nuclei"]) > 500
    assert found["graphs"] > 10


def test_the_shipped_model_gives_the_nuclei_of_the_cpu_on_real_images(variables):
    found = result(variables, "real")
    assert all(count > 5 for count in found["nuclei"])
    assert found["graphs"] > 0


def test_an_enlarged_image_of_which_the_networks_see_two_pictures_gives_the_nuclei_of_the_cpu(variables):
    assert sum(result(variables, "enlarged")["nuclei"]) > 30


def test_no_order_of_the_streams_changes_the_nuclei(variables):
    assert all(count > 20 for count in result(variables, "orders")["nuclei"])


def test_an_image_that_is_refused_takes_none_from_the_one_before_it(variables):
    found = result(variables, "refused")
    assert found["before"] == found["after"] > 20
    assert "no pixels" in found["said"]


def test_a_warm_up_runs_all_networks_and_changes_no_nucleus(variables):
    found = result(variables, "warm_up")
    assert all(found["ran"])
    assert found["black"] == 0 < found["nuclei"]


def test_graphs_serve_other_images_memory_and_sizes_than_those_they_were_made_with(variables):
    found = result(variables, "graphs")
    assert all(count > 5 for count in found["nuclei"])
    assert found["graphs"] > 20


def test_memory_that_python_collects_meanwhile_spoils_no_graph(variables):
    found = result(variables, "garbage")
    assert all(count > 20 for count in found["nuclei"])
    assert found["graphs"] > 0
    assert found["littered"] > 100


def test_threads_that_share_a_segmenter_get_the_nuclei_of_their_own_images(variables):
    assert all(count > 20 for count in result(variables, "threads")["nuclei"])


def test_masks_that_find_no_room_are_decoded_again_with_room_for_all(variables):
    found = result(variables, "room")
    assert all(count > 20 for count in found["nuclei"])
    assert found["emitted"] > len(found["nuclei"])


def test_image_follows_image_without_new_memory_and_only_counts_come_back_before_the_nuclei(variables):
    found = result(variables, "steady")
    assert found["grown"] == 0
    assert found["left"] == 0, "device memory that is not freed"
    back = [size for kind, size in found["copies"] if kind == "d2h"]
    # How many points there are and each of the four windows' first prompt; how many nuclei and words; then the nuclei.
    assert back[:2] == [4 * (2 + 4), 12]
    assert back[2] == 40 * found["nuclei"]
    assert len(back) == 4
    assert all(found["timings"][stage] > 0 for stage in ("prompter", "points", "encoder", "decoder", "masks", "total"))


def test_a_segmenter_that_goes_without_being_closed_leaves_no_memory_taken_in_whatever_thread(variables):
    found = result(variables, "dropped")
    assert found["nuclei"] > 20
    assert found["left"] == 0


def test_what_goes_wrong_is_told_and_the_next_image_is_well_again(variables):
    told = result(variables, "failures")
    assert told.pop("nuclei") > 20
    assert set(told) == {
        *("image", "memory", "kernel", "arguments", "engine", "closed"),
        *("cancelled after 0", "cancelled after 1"),
    }
    assert "scan_counts" in told["kernel"]
    assert "pnseg doctor" in told["memory"]
    assert "closed" in told["closed"]


def test_an_image_that_was_too_large_leaves_the_gpu_to_smaller_ones(variables):
    found = result(variables, "too_large")
    assert len(found["told"]) >= 5
    assert all("MiB left" in told for told in found["told"])
    assert found["left"] == 0


@pytest.mark.parametrize("kernel", ["normalise_windows", "scan_counts", "point_prompts", "tidy_masks"])
def test_a_kernel_that_fails_on_the_gpu_is_told_as_an_error_of_pnsegs_by_whatever_comes_behind_it(variables, kernel):
    done = scenario(variables | {"STAND_IN_FAILS": kernel}, "broken")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    verbs = ("synchronise", "record", "wait", "await_event", "seconds")
    assert set(told) == {"predict", "predict_many", "overlaps", *verbs}
    assert all(said.startswith("CUDA: ") and "pnseg doctor" in said for said in told.values()), told


@pytest.mark.parametrize("fails", ["capture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_a_graph_that_cannot_be_recorded_is_warned_of_once_and_everything_runs_plainly(variables, fails):
    done = scenario(variables | {"STAND_IN_FAILS": fails}, "without_graphs")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(count > 20 for count in found["nuclei"])
    assert found["graphs"] == 0
    assert len(found["warned"]) == 1
    assert "runs without one, more slowly" in found["warned"][0]


def test_nothing_waits_for_the_gpu_without_looking_at_what_it_says():
    ways = {"synchronize", "wait_for_event", "time_since"}
    sources = [path for path in (*PACKAGE.glob("cuda/*.py"), PACKAGE / "sessions/tensorrt.py") if path.stem != "driver"]
    for source in sources:
        nodes = list(ast.walk(ast.parse(source.read_text())))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and (
                node.attr in ways or (node.attr == "record" and id(node) in called)
            ):
                assert ast.unparse(node.value).endswith("device"), f"{source}:{node.lineno}"


def test_an_error_while_tidying_up_does_not_hide_the_one_before():
    def tidy_up():
        raise BackendError("the second")

    with pytest.raises(ValueError, match="the first"), at_last(tidy_up):
        raise ValueError("the first")
    with pytest.raises(BackendError, match="the second"), at_last(tidy_up):
        pass


def test_panoptic_quality_is_that_of_the_metrics(variables):
    assert len({round(pq, 6) for pq in result(variables, "overlaps")["pq"]}) > 4


WAITS = {
    "kernels that do not wait for the image": ("lane", "streams.wait_for_upload(streams.uploaded[frame.slot])"),
    "networks that do not wait for their batches": ("records", "streams.wait_for_upload(streams.planned)"),
    "copies that do not wait for the kernels": ("streams", "self._device.wait(self.copy, self._computed)"),
    "a host that does not wait for the copies": ("streams", "self._device.await_event(self._downloaded)"),
    "kernels whose end is never recorded": ("streams", "self._device.record(self._computed, self.compute)"),
    "an image whose arrival is never recorded": ("frame", "streams.record_upload(streams.uploaded[slot])"),
    "batches whose arrival is never recorded": ("records", "streams.record_upload(streams.planned)"),
    "copies whose end is never recorded": ("streams", "self._device.record(self._downloaded, self.copy)"),
}


#: What a fault comes to: other nuclei, values that the networks made of formulas cannot take, what the driver refuses.
JUNK = r"nuclei on the GPU|assert not engine\.failures|stand-in error"


def is_found(variables, name, module, old, new, told=JUNK):
    """A fault planted in a module fails a scenario for the reason that is told, or kernels read junk and crash it."""
    done = scenario(variables, name, CUDA + module, old, new)
    assert done.returncode != 0, "nothing was wrong"
    assert done.returncode < 0 or re.search(told, done.stderr), done.stderr


@pytest.mark.parametrize("fault", WAITS)
def test_a_wait_that_is_missing_is_found(variables, fault):
    module, wait = WAITS[fault]
    is_found(variables, "orders", module, wait, "pass")


FAULTS = {
    "graphs that take both images for one": ("graphs", "records", '("encoder", frame.slot, batch', '("encoder", batch'),
    "a stream that blocks the legacy one": ("graphs", "driver", "(NON_BLOCKING)", "()", "nothing was captured"),
    "a collector at work in a capture": (
        "garbage",
        "driver",
        "    gc.disable()",
        "    pass",
        "memory is freed by a thread",
    ),
    "a lane that still asks for what there is not": ("too_large", "segmenter", "lane.start_over()", "pass", "MiB left"),
    "graphs that outlive their memory": ("graphs", "streams", "    graphs.clear()", "    pass"),
    "two images in one staging memory": ("orders", "frame", 'streams.upload(f"image{slot}"', 'streams.upload("image"'),
    "the segmentor's picture for the prompter": ("enlarged", "points", "frame.softer", "frame.image"),
    "softer pictures of two images in one memory": ("enlarged", "frame", 'at(f"softer{slot}"', 'at("softer"'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_order_of_things_is_found(variables, fault):
    is_found(variables, *FAULTS[fault])
