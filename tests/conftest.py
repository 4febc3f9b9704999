"""How the processes that share the tests (pytest-xdist) get on with each other."""

from __future__ import annotations

import os

import pytest

# What takes longest starts first, so that no process waits for it in the end; the others follow in the order of names.
LONGEST = (
    # export
    "test_onnx.py",
    "test_gates.py",
    "test_restore.py",
    "test_golden.py",
    "test_full_size.py",
    "test_build.py",
    "test_comparison.py",
    "test_windows.py",
    # runtime
    "test_join.py",
    "test_device.py",
    "test_two_files.py",
    "test_memory.py",
    "test_ray.py",
    "test_segmenter.py",
    "test_engine_backend.py",
    "test_killed.py",
    "test_results.py",
    "test_processes.py",
    "test_nano.py",
    # train
    "test_several_processes.py",
    "test_fit.py",
    # benchmarks
    "test_latency.py",
    "test_guard.py",
    "test_style.py",
    "test_accuracy_tables.py",
    "test_table5.py",
)


def pytest_configure() -> None:
    """Give each process cores of its own.

    Networks take a thread a core. On cores that another process uses too, threads wait for each other, spinning.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= count:
            os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: count])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
