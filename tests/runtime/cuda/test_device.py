"""The GPU path's host code, unchanged PyCUDA calls included, on a stand-in driver: the CPU's nuclei, bit for bit."""

import json
import subprocess
import sys

import pytest

from tests.runtime.cuda import environment

pytestmark = pytest.mark.slow
CUDA = "pnseg_runtime.cuda."


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


def test_panoptic_quality_is_that_of_the_metrics(variables):
    assert len({round(pq, 6) for pq in result(variables, "overlaps")["pq"]}) > 4


WAITS = {
    "kernels that do not wait for the image": ("lane", "streams.compute.wait_for_event(streams.uploaded[frame.slot])"),
    "networks that do not wait for their batches": ("records", "streams.compute.wait_for_event(streams.planned)"),
    "copies that do not wait for the kernels": ("streams", "self.copy.wait_for_event(self._computed)"),
    "a host that does not wait for the copies": ("streams", "self._downloaded.synchronize()"),
    "kernels whose end is never recorded": ("streams", "self._computed.record(self.compute)"),
    "an image whose arrival is never recorded": ("frame", "streams.uploaded[slot].record(streams.copy)"),
    "batches whose arrival is never recorded": ("records", "streams.planned.record(streams.copy)"),
    "copies whose end is never recorded": ("streams", "self._downloaded.record(self.copy)"),
}


@pytest.mark.parametrize("fault", WAITS)
def test_a_wait_that_is_missing_is_found(variables, fault):
    module, wait = WAITS[fault]
    done = scenario(variables, "orders", CUDA + module, wait, "pass")
    assert done.returncode != 0, "every order gave the right nuclei"
    assert "has no" not in done.stderr


FAULTS = {
    "a stale number of words in a graph": ("records", "call.negatives, capacity)", "call.negatives)", "graphs"),
    "graphs that take both images for one": ("records", '("encoder", frame.slot, batch', '("encoder", batch', "graphs"),
    "graphs that outlive their memory": ("streams", "    graphs.clear()", "    pass", "graphs"),
    "two images in one staging memory": ("frame", 'streams.upload(f"image{slot}"', 'streams.upload("image"', "orders"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_order_of_things_is_found(variables, fault):
    module, old, new, name = FAULTS[fault]
    done = scenario(variables, name, CUDA + module, old, new)
    assert done.returncode != 0, "nothing was wrong"
    assert "has no" not in done.stderr
