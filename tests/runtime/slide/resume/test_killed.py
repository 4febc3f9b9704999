"""Whatever kills a run, the same command ends it with the same bytes, and nothing is done twice."""

from __future__ import annotations

import errno
import io
import random
import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnseg_runtime.errors import OutputError
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.slide import SlideResult
from pnseg_runtime.slide.core import Found, load, save
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import CoreDone
from tests.runtime.slide.local import Network, decoder, hashes, run_local
from tests.runtime.slide.resume.running import (
    KINDS,
    OPTIONS,
    Counting,
    found_files,
    job_of,
    start,
)


@pytest.mark.slow
def test_ten_kills_at_random_moments_and_the_bytes_are_those_of_an_undisturbed_run(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    rng, before = random.Random(0), 0
    started = time.monotonic()
    probe = start(slide, tmp_path / "probe", bundle)
    probe.join()
    whole = time.monotonic() - started
    assert probe.exitcode == 0
    for _ in range(10):
        process = start(slide, tmp_path / "out", bundle)
        time.sleep(rng.uniform(0, 0.5 * whole))
        process.kill()
        process.join()
        done = found_files(tmp_path / "out")
        assert len(done) >= before, "a core that was done is done no more"
        for path in (tmp_path / "out").glob("*.work/*/found/*.npz"):
            load(path.read_bytes())  # complete, whatever happened
        before = len(done)
    last = start(slide, tmp_path / "out", bundle)
    last.join()
    assert last.exitcode == 0
    watcher = Counting()
    result = run_local(slide, tmp_path / "out", bundle, KINDS, OPTIONS, watcher=watcher)
    assert watcher.cores == []
    assert hashes(result) == hashes(undisturbed)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert not list((tmp_path / "out").glob("*.work/*/drafts/*"))


def test_only_missing_cores_are_done_again(slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, KINDS, OPTIONS)
    files = sorted(tmp_path.glob("*.work/*/found/*.npz"))
    lost = [files[1], files[-1]]
    for path in lost:
        path.unlink()
    for path in tmp_path.glob("*.work/*/settled/*"):
        path.unlink()
    watcher = Counting()
    result = run_local(slide, tmp_path, bundle, KINDS, OPTIONS, watcher=watcher)
    assert watcher.cores == [path.stem for path in lost]
    assert hashes(result) == hashes(undisturbed)


def test_the_order_in_which_cores_are_done_does_not_matter(
    slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pnseg_runtime.slide import work

    in_order = work._to_do
    monkeypatch.setattr(work, "_to_do", lambda *args: reversed(list(in_order(*args))))
    assert hashes(run_local(slide, tmp_path, bundle, KINDS, OPTIONS)) == hashes(undisturbed)


def test_last_bits_that_networks_give_otherwise_with_other_threads_are_not_written(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    def certain(more: float) -> Network:
        def decode(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            raw = decoder(inputs)
            return raw | {"iou": (raw["iou"] * 0.7123 + more).astype(np.float32)}

        return decode

    first, second = (
        run_local(slide, tmp_path / str(more), bundle, KINDS, OPTIONS, decoder=certain(more)) for more in (0, 1.8e-7)
    )
    assert hashes(first) == hashes(second)
    table = pq.read_table(first.outputs[".parquet"])
    certainties = np.stack([table[name].to_numpy() for name in ("score", "predicted_iou")], axis=1)
    np.testing.assert_allclose(certainties * 1e4, np.rint(certainties * 1e4), atol=1e-2)
    assert len(np.unique(certainties[:, 1])) > 5


def test_a_failure_of_the_networks_ends_the_run_and_keeps_what_was_done(
    slide: Path, bundle: Path, tmp_path: Path
) -> None:
    calls = []

    class Failing(Watcher):
        def core_done(self, done: CoreDone) -> None:
            calls.append(done)
            if len(calls) == 2:
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run_local(slide, tmp_path, bundle, KINDS, OPTIONS, watcher=Failing())
    assert len(found_files(tmp_path)) >= 2
    assert not list(tmp_path.glob("*.geojson"))
    assert not list(tmp_path.glob("*.work/*/claims/*.claim"))


def test_work_that_is_not_kept_is_removed(slide: Path, bundle: Path, tmp_path: Path) -> None:
    run_local(slide, tmp_path, bundle, ("parquet",), OPTIONS, keep_work=False)
    assert not list(tmp_path.glob("*.work"))
    assert (tmp_path / "slide.parquet").exists()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "gone"])
def test_a_damaged_file_of_a_core_is_done_again_by_the_same_command(
    damage: str, slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    path = sorted(out.glob("*.work/*/found/*.npz"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flipped": data, "truncated": data[: len(data) // 2], "empty": b""}[damage])
    watcher = Counting()
    result = run_local(slide, out, bundle, ("parquet",), OPTIONS, watcher=watcher)
    assert watcher.cores == [path.stem]
    assert result.outputs[".parquet"].read_bytes() == undisturbed.outputs[".parquet"].read_bytes()


@pytest.mark.parametrize("kind", ["found", "settled"])
def test_work_that_cannot_be_read_at_the_moment_is_kept(
    kind: str, slide: Path, bundle: Path, undisturbed: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(undisturbed.run.parent, tmp_path / "out")
    files = sorted(out.glob(f"*.work/*/{kind}/*"))
    job = job_of(slide, out, bundle)
    core = job.plan.cores[1]
    load_core = job.store.load_found if kind == "found" else job.store.load_settled

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with closing(job), monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        patched.setattr(pa, "OSFile", refuse)
        with pytest.raises(OutputError, match=r"cannot be read \(Input/output error\)"):
            load_core(core)
        if kind == "found":
            with pytest.raises(OutputError, match="cannot be read"), job.store.at_work():
                pass
    assert sorted(out.glob(f"*.work/*/{kind}/*")) == files
    assert load_core(core) is not None


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_file_of_a_core_is_either_read_as_it_was_or_called_damaged(place: float, bit: int, cut: bool) -> None:
    points = PointPrompts(np.array([[3, 4], [9, 9]], np.float32), np.array([0, 1]), np.array([0.5, 1], np.float32))
    boxes, masks = np.array([[1, 2, 7, 6]] * 2, np.int32), (np.eye(4, 6) > 0, np.ones((4, 6), bool))
    stream = io.BytesIO()
    save(Found((0, 0), points, np.ones(2, np.float32), boxes, masks, (), {"read": 1.0}), stream)
    data = bytearray(stream.getvalue())
    index = int(place * len(data))
    data[index] ^= 1 << bit
    try:
        found = load(bytes(data[:index] if cut else data))
    except ValueError:
        return
    assert [mask.tolist() for mask in found.masks] == [mask.tolist() for mask in masks]
    assert found.points.coords.tolist() == points.coords.tolist()
