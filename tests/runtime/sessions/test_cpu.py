import os

import pytest

from pnseg_runtime.sessions.cpu import physical_cores


def test_physical_cores_are_some_of_those_the_process_may_use():
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no processor affinity")
def test_a_process_bound_to_one_processor_counts_one_core():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert physical_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
