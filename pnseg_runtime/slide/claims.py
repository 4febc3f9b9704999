"""Who works on what: several processes share a folder without doing anything twice.

A claim is a file made with ``O_EXCL``, kept fresh by a heartbeat. One whose process is known to be gone, or that
has not been refreshed for a while, is taken over. Claims save work and nothing more: results are
written atomically and are the same whoever makes them, so a claim that is lost does no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType

from pnseg_runtime.errors import OutputError

#: Seconds after which a claim that nobody refreshed is anyone's.
LEASE = 60.0


class Claims:
    """The claims of this process in a folder; as a context manager it lets go of them at the end, oldest first."""

    def __init__(self, folder: Path, lease: float = LEASE) -> None:
        """Make the folder and start the heartbeat.

        Args:
            folder: shared by all processes.
            lease: seconds.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lease = lease
        self._held: dict[str, None] = {}  # in the order in which they were taken
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._me = {**_machine(), "pid": os.getpid(), "started": _started(os.getpid()), "id": uuid.uuid4().hex}
        self._heart = threading.Thread(target=self._beat, name="claims", daemon=True)
        self._heart.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim something; False if another process has it.

        Raises:
            OutputError: the folder is there no more.
        """
        try:
            return self._take(name)
        except FileNotFoundError as error:
            raise OutputError(
                f"{self._folder}: another process has removed this folder; run the same command again."
            ) from error

    def _take(self, name: str) -> bool:
        path = self._path(name)
        if not self._create(path):
            if not self._is_stale(path):
                return False
            # Of several that see it stale, one can rename it.
            grave = path.with_name(f".{name}.{uuid.uuid4().hex}")
            try:
                path.rename(grave)
            except OSError:
                return False
            grave.unlink(missing_ok=True)
            if not self._create(path):
                return False
        with self._lock:
            self._held[name] = None
        return True

    def release(self, name: str) -> None:
        """Let go of something that was claimed."""
        with self._lock:
            self._held.pop(name, None)
        path = self._path(name)
        if self._owner(path).get("id") == self._me["id"]:
            path.unlink(missing_ok=True)

    def others(self) -> bool:
        """Whether another process that is alive holds anything."""
        return any(map(self._is_anothers, self._folder.glob("*.claim")))

    def _is_anothers(self, path: Path) -> bool:
        return self._owner(path).get("id") != self._me["id"] and not self._is_stale(path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.claim"

    def _create(self, path: Path) -> bool:
        # A claim is complete when it appears, so a link and not an open file.
        draft = path.with_name(f".{uuid.uuid4().hex}.draft")
        claim: dict[str, object] = {**self._me, "claim": uuid.uuid4().hex}
        draft.write_text(json.dumps(claim), encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            # A file system on the network may have lost its answer, asked again, and met what it had made itself.
            return self._owner(path) == claim
        except OSError:  # a file system without links
            try:
                with path.open("x", encoding="ascii") as stream:
                    json.dump(claim, stream)
            except FileExistsError:
                return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _owner(self, path: Path) -> dict[str, object]:
        try:
            owner = json.loads(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _is_stale(self, path: Path) -> bool:
        owner = self._owner(path)
        here = _machine()
        # Without a time of its start a process cannot be told from another that has its number by now.
        if owner.get("started") and all(owner.get(key) == value for key, value in here.items()):
            pid = owner.get("pid")
            return not isinstance(pid, int) or _started(pid) != owner.get("started")
        try:
            return self._now() - path.stat().st_mtime > self._lease
        except OSError:
            return False  # it has just been released

    def _now(self) -> float:
        """The time by the clock of whoever keeps the files, which need not be this machine's."""
        probe = self._folder / f".{uuid.uuid4().hex}.clock"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self._lease / 4):
            with self._lock:
                held = list(self._held)
            for name in held:
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))


def _machine() -> dict[str, str]:
    """What tells processes apart that share process numbers: the host, its boot, the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = space = ""
    return {"host": socket.gethostname(), "boot": boot, "space": space}


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if there is none, if it has ended, or if no /proc tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
