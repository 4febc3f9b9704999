import os

import pytest

from pnseg_runtime.sessions import cpu
from pnseg_runtime.sessions.cpu import cpu_quota, physical_cores


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


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("250000 100000\n", 2.5), ("nonsense", None), ("1 0", None), (None, None)],
)
def test_the_cores_of_a_container_are_read(tmp_path, text, cores):
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", None), ("150000\n", 1.5)])
def test_the_cores_of_a_container_are_read_from_control_groups_of_the_first_version_too(tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) == cores


def test_the_least_quota_of_the_groups_around_a_process_holds(tmp_path):
    service = tmp_path / "system.slice" / "pnseg.service"
    service.mkdir(parents=True)
    (service / "cpu.max").write_text("300000 100000")
    (tmp_path / "own").write_text("0::/system.slice/pnseg.service\n")
    assert cpu_quota(tmp_path, tmp_path / "own") == 3
    (service.parent / "cpu.max").write_text("200000 100000")
    assert cpu_quota(tmp_path, tmp_path / "own") == 2
    assert cpu_quota(tmp_path, tmp_path / "no such file") is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no processor affinity")
@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (0.5, 1), (2.0, 2), (2.1, 3), (16.0, 4)])
def test_threads_are_no_more_than_a_containers_quota_rounded_up(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(cpu, "_core", str)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)
    assert physical_cores() == cores
