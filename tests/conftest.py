"""The order of the files: what takes longest starts first, so that no process of several waits for it in the end."""

from __future__ import annotations

import pytest

# By their time on a slow machine, the longest first; the others follow in the order of their names.
LONGEST = (
    # export
    "test_gates.py",
    "test_onnx.py",
    "test_restore.py",
    "test_full_size.py",
    "test_comparison.py",
    # runtime
    "test_join.py",
    "test_device.py",
    "test_segmenter.py",
    "test_memory.py",
    "test_engine_backend.py",
    "test_resume.py",
    "test_nano.py",
    # train
    "test_fit.py",
    "test_switches.py",
    # benchmarks
    "test_guard.py",
    "test_table5.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
