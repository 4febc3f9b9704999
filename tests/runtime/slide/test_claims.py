"""A claim is one process's, until that is gone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pnseg_runtime.errors import OutputError
from pnseg_runtime.slide import claims
from pnseg_runtime.slide.claims import Claims


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def of_another_machine(folder: Path, name: str) -> Path:
    path = folder / f"{name}.claim"
    owner = {"host": "elsewhere", "boot": "1", "space": "1", "pid": os.getpid(), "started": "1", "id": "other"}
    path.write_text(json.dumps(owner))
    return path


def test_of_many_that_want_a_core_one_gets_it(tmp_path: Path) -> None:
    everyone = [Claims(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for name in map(str, range(20)):
            assert sum(pool.map(lambda claims, name=name: claims.take(name), everyone)) == 1


def test_what_is_released_can_be_taken(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a")
    assert not second.take("a")
    first.release("a")
    assert second.take("a")


def test_all_claims_end_with_the_block(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        claims.take("a")
        claims.take("b")
        assert len(list(tmp_path.glob("*.claim"))) == 2
    assert not list(tmp_path.iterdir())


def test_a_claim_of_another_machine_lasts_as_long_as_its_lease(tmp_path: Path) -> None:
    path = of_another_machine(tmp_path, "a")
    claims = Claims(tmp_path, lease=30)
    assert not claims.take("a")
    assert claims.others()
    age(path, 31)
    assert not claims.others()
    assert claims.take("a")
    assert [each.name for each in tmp_path.iterdir()] == ["a.claim"]


def test_a_claim_that_another_process_has_taken_over_is_not_released(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.take("a")
    path = of_another_machine(tmp_path, "a")
    claims.release("a")
    assert json.loads(path.read_text())["id"] == "other"


def test_claims_end_in_the_order_in_which_they_were_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    monkeypatch.setattr(Claims, "release", lambda _, name: released.append(name))
    with Claims(tmp_path) as claims:
        for name in "bca":
            claims.take(name)
    assert released == list("bca")


def test_where_files_cannot_be_linked_one_of_two_gets_a_core_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Path) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a")
    assert not second.take("a")
    first.release("a")
    assert second.take("a")


def test_of_many_that_see_a_stale_claim_one_takes_it_over(tmp_path: Path) -> None:
    everyone = [Claims(tmp_path, lease=30) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for name in map(str, range(10)):
            age(of_another_machine(tmp_path, name), 31)
            assert sum(pool.map(lambda claims, name=name: claims.take(name), everyone)) <= 1
            assert (tmp_path / f"{name}.claim").exists()


def test_a_process_that_is_gone_from_this_machine_holds_nothing(tmp_path: Path) -> None:
    mine = Claims(tmp_path)
    mine.take("a")
    path = tmp_path / "a.claim"
    owner = json.loads(path.read_text())
    path.write_text(json.dumps(owner | {"pid": 2**22 - 1, "id": "gone"}))
    assert Claims(tmp_path).take("a")
    # Its number may belong to another process by now, which has started at another time.
    path.write_text(json.dumps(owner | {"started": "0", "id": "gone"}))
    assert Claims(tmp_path).take("a")


@pytest.mark.parametrize("name", ["host", "boot", "space"])
def test_of_a_process_elsewhere_only_the_lease_tells(name: str, tmp_path: Path) -> None:
    claims = Claims(tmp_path, lease=30)
    claims.take("a")
    path = tmp_path / "a.claim"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: "another", "pid": 2**22 - 1, "id": "other"}))
    assert not claims.take("a")
    age(path, 31)
    assert claims.take("a")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_the_start_of_a_process_is_known_whatever_its_name_until_it_has_ended(tmp_path: Path) -> None:
    odd = tmp_path / "odd) S 1"
    odd.symlink_to(sys.executable)
    with subprocess.Popen([odd, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ticks = os.sysconf("SC_CLK_TCK") * float(Path("/proc/uptime").read_text().split()[0])
        assert int(claims._started(process.pid)) == pytest.approx(ticks, abs=100 * os.sysconf("SC_CLK_TCK"))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert claims._started(process.pid) == ""


def test_where_no_start_of_a_process_is_known_its_claims_last_as_long_as_their_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "Path", lambda name: tmp_path / "none" if str(name).startswith("/proc") else Path(name))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("on Windows this would interrupt the process"))
    mine, other = Claims(tmp_path, lease=30), Claims(tmp_path, lease=30)
    assert mine.take("a")
    assert not other.take("a")
    owner = json.loads((tmp_path / "a.claim").read_text())
    (tmp_path / "b.claim").write_text(json.dumps(owner | {"id": "gone"}))
    assert not other.take("b")
    age(tmp_path / "b.claim", 31)
    assert other.take("b")


def test_a_claim_that_was_made_though_the_answer_was_lost_is_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    first, second = Claims(tmp_path), Claims(tmp_path)
    monkeypatch.setattr(os, "link", lost)
    assert first.take("a")
    assert not second.take("a")
    assert not first.take("a"), "it is held already"


def test_a_heart_that_beats_keeps_a_claim_fresh(tmp_path: Path) -> None:
    with Claims(tmp_path, lease=0.4) as claims:
        claims.take("a")
        age(tmp_path / "a.claim", 100)
        end = time.monotonic() + 60
        while time.time() - (tmp_path / "a.claim").stat().st_mtime > 50:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    (tmp_path / "claims").rmdir()
    with pytest.raises(OutputError, match="another process has removed this folder; run the same command again"):
        claims.take("a")


@pytest.mark.parametrize("text", ["{half", "[1]"])
def test_a_claim_that_cannot_be_read_is_judged_by_its_age(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.claim").write_text(text)
    claims = Claims(tmp_path, lease=30)
    assert not claims.take("a")
    age(tmp_path / "a.claim", 31)
    assert claims.take("a")
