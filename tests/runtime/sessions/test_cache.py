import logging
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest

from pnseg_runtime.bundle import SHIPPED, Bundle
from pnseg_runtime.errors import BundleError
from pnseg_runtime.sessions import open_sessions
from pnseg_runtime.sessions.auto import run_tile
from pnseg_runtime.sessions.cache import FOLDER, cached, is_sound


@pytest.fixture(autouse=True)
def no_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("PNSEG_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def writing(content, calls=None):
    def make(path):
        if calls is not None:
            calls.append(1)
        path.write_bytes(content)

    return make


def test_an_entry_is_made_once_beside_the_bundle(tmp_path):
    calls = []
    first = cached(tmp_path, ("a", "1"), ".bin", writing(b"x", calls))
    assert first.parent == tmp_path / FOLDER
    assert cached(tmp_path, ("a", "1"), ".bin", writing(b"y", calls)) == first
    assert first.read_bytes() == b"x"
    assert len(calls) == 1


def test_what_it_depends_on_makes_another_entry(tmp_path):
    assert cached(tmp_path, ("a", "1"), ".bin", writing(b"x")) != cached(tmp_path, ("a", "2"), ".bin", writing(b"x"))


def test_a_damaged_entry_is_made_anew(tmp_path):
    entry = cached(tmp_path, ("a",), ".bin", writing(b"whole"))
    entry.write_bytes(b"who")
    assert not is_sound(entry)
    assert cached(tmp_path, ("a",), ".bin", writing(b"whole")).read_bytes() == b"whole"


def test_a_failure_leaves_nothing_behind(tmp_path):
    def fail(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    assert cached(tmp_path, ("a",), ".bin", fail) is None
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_where_the_bundle_cannot_be_written_the_users_cache_is_used(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / FOLDER).write_text("a file where the folder would be")
    entry = cached(tmp_path / "bundle", ("a",), ".bin", writing(b"x"))
    assert entry.parent == tmp_path / "home" / "pnseg"


def test_a_folder_that_is_chosen_is_used_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PNSEG_CACHE", str(tmp_path / "mine"))
    assert cached(tmp_path / "bundle", ("a",), ".bin", writing(b"x")).parent == tmp_path / "mine"


def test_where_nothing_can_be_written_there_is_no_entry(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PNSEG_CACHE", str(tmp_path / "file" / "below"))
    assert cached(tmp_path, ("a",), ".bin", writing(b"x")) is None


def test_a_cached_graph_gives_the_same_values_and_is_read_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PNSEG_CACHE", str(tmp_path))
    bundle = Bundle.open(SHIPPED / "nano")
    plain, first, second = (run_tile(bundle, open_sessions(bundle, cache=cache)) for cache in (False, True, True))
    entries = [path for path in tmp_path.iterdir() if path.suffix == ".onnx"]
    assert len(entries) == 3
    for name, values in plain.items():
        np.testing.assert_allclose(first[name], values, atol=1e-4)
        np.testing.assert_array_equal(first[name], second[name])


@contextmanager
def files_of_at_most(size):
    """A quota: whatever writes more to a file meets an error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_there_is_room_for_a_probe_but_not_for_a_graph_networks_open_without_the_cache(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("PNSEG_CACHE", str(tmp_path))
    bundle = Bundle.open(SHIPPED / "nano")
    with caplog.at_level(logging.WARNING, "pnseg.cache"), files_of_at_most(40_000):
        sessions = open_sessions(bundle, cache=True)
    assert list(tmp_path.iterdir()) == []
    assert "nothing could be kept here" in caplog.text
    assert "export the bundle again" not in caplog.text
    found = run_tile(bundle, sessions)
    for name, values in run_tile(bundle, open_sessions(bundle)).items():
        np.testing.assert_array_equal(found[name], values)


def test_a_graph_that_cannot_be_read_is_named_with_the_cache_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PNSEG_CACHE", str(tmp_path / "cache"))
    bundle = Bundle.open(shutil.copytree(SHIPPED / "nano", tmp_path / "nano"))
    path = bundle.path("decoder")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match=rf"^{path}: ONNX Runtime cannot read this network .* export the bundle"):
        open_sessions(bundle, cache=True)


def test_a_checksum_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(path, text, **options):
        path.touch()
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert cached(tmp_path, ("a",), ".bin", writing(b"x")) is None
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_two_threads_that_make_the_same_entry_do_not_meet(tmp_path):
    """The second begins in the middle of the first one's writing, and ends after it."""
    begun, ended = Event(), Event()

    def first(path):
        with path.open("wb") as file:
            file.write(b"x" * 400)
            file.flush()
            begun.set()
            assert ended.wait(60)
            file.write(b"x" * 600)

    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(cached, tmp_path, ("a",), ".bin", first)
        assert begun.wait(60)
        other = cached(tmp_path, ("a",), ".bin", writing(b"x" * 1000))
        assert (other.read_bytes(), is_sound(other)) == (b"x" * 1000, True)
        ended.set()
        assert one.result() == other
    assert (other.read_bytes(), is_sound(other)) == (b"x" * 1000, True)
    assert sorted(path.name for path in other.parent.iterdir()) == [other.name, f"{other.name}.sha256"]


def test_a_network_that_openvino_has_kept_is_made_anew_if_a_byte_of_it_is_another(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano", ignore=shutil.ignore_patterns(FOLDER))
    bundle = Bundle.open(tmp_path / "nano")

    def outputs():
        return run_tile(bundle, open_sessions(bundle, "openvino", threads=1))

    def kept():
        return {path: path.stat().st_mtime_ns for path in sorted((bundle.folder / FOLDER).glob("*.openvino"))}

    expected, first = outputs(), kept()
    assert len(first) == 3
    outputs()
    assert kept() == first, "it was compiled a second time"
    flipped = {path: bytearray(path.read_bytes()) for path in first}
    for path, content in flipped.items():
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    for name, values in outputs().items():
        np.testing.assert_array_equal(values, expected[name])
    assert all(is_sound(path) for path in kept())
    assert all(path.read_bytes() != content for path, content in flipped.items())


def test_a_network_of_openvino_that_came_from_a_file_gives_what_one_gives_that_was_just_compiled(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano", ignore=shutil.ignore_patterns(FOLDER))
    bundle = Bundle.open(tmp_path / "nano")
    plain, first, second = (
        run_tile(bundle, open_sessions(bundle, "openvino", threads=1, cache=cache)) for cache in (False, True, True)
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(first[name], values, err_msg=name)
        np.testing.assert_array_equal(second[name], values, err_msg=name)


def test_without_a_home_the_cache_lies_beside_the_bundle(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    assert cached(tmp_path, ("a",), ".bin", writing(b"x")).parent == tmp_path / FOLDER
