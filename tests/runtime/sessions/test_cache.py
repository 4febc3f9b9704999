import numpy as np
import pytest

from pnseg_runtime.bundle import SHIPPED, Bundle
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
