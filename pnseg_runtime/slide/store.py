"""The work of a slide on disk: one file a core, complete or not there.

``<out>/<slide>.work/<fingerprint>/`` holds ``plan.json``, ``found/`` (what each core found),
``settled/`` (its nuclei in the light of its neighbours') and ``claims/``. The fingerprint stands for
everything the result depends on, so that work under different conditions cannot mix. Processes that
begin or end their work go through one door, one at a time: the claim ``start`` beside the plans.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs.atomic import all_or_none
from pnseg_runtime.slide import core as cores
from pnseg_runtime.slide.claims import LEASE, Claims
from pnseg_runtime.slide.core import Found
from pnseg_runtime.slide.plan import Core, Plan, changes

T = TypeVar("T")

_PLAN = "plan.json"
_SLIDE = "path"  # in it, the slide's, which is none of the plan's facts
_REMOVED = ".removed-"
_START = "start"  # claimed by the process that is just beginning or ending
_POLL = 0.1  # s between looks at whether another has started


class DamagedWorkError(OutputError):
    """A file of a core was damaged, and has been removed."""


class Store:
    """The files of one plan."""

    def __init__(self, folder: Path, plan: Plan, slide: str = "") -> None:
        """Make nothing yet.

        Args:
            folder: of all plans of this name.
            plan: what is to be done.
            slide: where the slide is, for those whose slide has the same name.
        """
        self.root = folder
        self.plan = plan
        self._slide = slide
        self.folder = folder / plan.fingerprint
        self._found = self.folder / "found"
        self._settled = self.folder / "settled"
        self.drafts = self.folder / "drafts"

    def open(self) -> str | None:
        """Make the folders; work of another plan is removed.

        Returns:
            What has changed since that work was done, or None if there was none.

        Raises:
            OutputError: another process works here under other conditions, or nothing can be written.
        """
        with self._door():
            return self._open()

    @contextlib.contextmanager
    def at_work(
        self, say: Callable[[str], None] = lambda _: None, lease: float = LEASE
    ) -> Iterator[tuple[Claims, str | None]]:
        """:meth:`open`, and claims on the cores of this plan; others see that this process is at work until the end.

        Who is alone at the start has cores with unreadable parts or damaged files done again. While another process is
        at work they stay: it counts on what it has seen there.

        Args:
            say: is told what is being done.
            lease: seconds after which the claim of a process that has gone silent is anyone's.

        Raises:
            OutputError: another process works here under other conditions, or nothing can be written.
        """
        with contextlib.ExitStack() as stack:
            with self._door(lease):
                changed = self._open()
                claims = stack.enter_context(Claims(self.folder / "claims", lease))
                again = 0 if claims.others() else self._forget_damaged()
                claims.take(f"at-work-{uuid.uuid4().hex}")
            if again:
                say(f"doing {again} cores with unreadable parts or damaged files again")
            yield claims, changed

    @contextlib.contextmanager
    def _door(self, lease: float = LEASE) -> Iterator[None]:
        """One process at a time, so that who comes second sees either the first at work or what it has left."""
        _make(self.root)
        with Claims(self.root, lease) as claims:
            while not claims.take(_START):
                time.sleep(_POLL)
                _make(self.root)  # the one before may have been the last, and have taken it away
            yield

    def _open(self) -> str | None:
        message = self._remove_others()
        for folder in (self._found, self._settled, self.drafts):
            _make(folder)
        if not (self.folder / _PLAN).exists():
            facts = {**self.plan.facts, _SLIDE: self._slide}
            _write(self.folder / _PLAN, json.dumps(facts, indent=1, sort_keys=True).encode())
        return message

    def has_found(self, core: Core) -> bool:
        return self._found_path(core).exists()

    def has_settled(self, core: Core) -> bool:
        return self._settled_path(core).exists()

    def is_done(self, core: Core) -> bool:
        """Whether the core is ready to be joined: there and settled."""
        return self.has_settled(core) and self.has_found(core)

    def all_done(self) -> bool:
        """Whether nothing is left but to join the cores."""
        return all(map(self.is_done, self.plan.cores))

    def save_found(self, core: Core, found: Found) -> None:
        """Write what a core has found.

        Raises:
            OutputError: it cannot be written.
        """
        with all_or_none([self._found_path(core)]) as (stream,):
            cores.save(found, stream)

    def load_found(self, core: Core) -> Found:
        """Read what a core has found.

        Raises:
            DamagedWorkError: the file is damaged.
            OutputError: it cannot be read; it is kept, as it may be sound.
        """
        return _load(self._found_path(core), cores.load, ValueError)

    def save_settled(self, core: Core, table: pa.Table) -> None:
        """Write the nuclei of a core.

        Raises:
            OutputError: it cannot be written.
        """
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            all_or_none([self._settled_path(core)]) as (stream,),
            pa.ipc.new_file(stream, table.schema, options=options) as writer,
        ):
            writer.write_table(table)

    def load_settled(self, core: Core) -> pa.Table:
        """Read the nuclei of a core.

        Raises:
            DamagedWorkError: the file is damaged.
            OutputError: it cannot be read; it is kept, as it may be sound.
        """
        # Of bytes in memory: an OSError of Arrow's is no disk's.
        return _load(self._settled_path(core), _table_of, OSError, pa.ArrowException)

    def clear_drafts(self, claims: Claims) -> None:
        """Remove what killed processes have left half-written, unless another process is at work."""
        with self._door():
            if claims.others():
                return
            beside = (path for folder in (self.folder, self._found, self._settled) for path in folder.glob("*.part"))
            for path in (*self.drafts.iterdir(), *beside):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def remove(self, claims: Claims) -> None:
        """Remove all work of this plan, unless another process is at work."""
        with self._door():
            if claims.others():
                return
            shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def _forget_damaged(self) -> int:
        """Remove the work of cores with unreadable parts or damaged files, and of all that depend on it; how many."""
        damaged = [core for core in self.plan.cores if self.has_found(core) and self._is_damaged(core)]
        for core in damaged:
            for near in self.plan.neighbours(core):
                self._settled_path(near).unlink(missing_ok=True)
            self._found_path(core).unlink(missing_ok=True)
        return len(damaged)

    def _is_damaged(self, core: Core) -> bool:
        try:
            return bool(self.load_found(core).unreadable)
        except DamagedWorkError:
            return True

    def _remove_others(self) -> str | None:
        message = None
        for removed in self.root.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)
        others = [path for path in self.root.glob("*") if path.is_dir() and path.name != self.plan.fingerprint]
        for other in others:
            if (other / "claims").is_dir():
                with Claims(other / "claims") as claims:
                    if claims.others():
                        raise OutputError(
                            f"{self.root}: another process works here with other options; wait for it or choose "
                            "another folder with --out."
                        )
        for other in others:
            facts = _facts_in(other)
            facts.pop(_SLIDE, None)
            message = "; ".join(changes(facts, self.plan.facts)) or "an older format"
            # First out of the way under a name that no plan has, so that what is killed half-way is no plan.
            grave = self.root / f"{_REMOVED}{uuid.uuid4().hex}"
            with contextlib.suppress(OSError):
                other.rename(grave)
                shutil.rmtree(grave, ignore_errors=True)
        return message

    def _found_path(self, core: Core) -> Path:
        return self._found / f"{core.name}.npz"

    def _settled_path(self, core: Core) -> Path:
        return self._settled / f"{core.name}.arrow"


def earlier_plans(root: Path) -> list[tuple[str, dict[str, Any]]]:
    """(fingerprint, facts) of the plans whose work is in a slide's folder of work."""
    folders = sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith(_REMOVED))
    return [(folder.name, _facts_in(folder)) for folder in folders]


def earlier_slides(root: Path) -> list[tuple[object, object]]:
    """(path, hex SHA-256) of the slides of those plans."""
    return [(facts.get(_SLIDE), facts.get("slide")) for _, facts in earlier_plans(root)]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another folder.") from error


def _facts_in(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read ({error.strerror or error}); see to the disk and run the same command again."
        ) from error


def _load(path: Path, parse: Callable[[bytes], T], *faults: type[Exception]) -> T:
    """What is in a file of work; one that is damaged, so that one of the faults is raised, is removed."""
    data = _read(path)
    try:
        return parse(data)
    except faults as error:
        path.unlink(missing_ok=True)
        raise DamagedWorkError(
            f"{path}: was damaged ({error}) and has been removed; run the same command again."
        ) from error


def _table_of(data: bytes) -> pa.Table:
    with pa.ipc.open_file(pa.py_buffer(data)) as reader:
        return reader.read_all()


def _write(path: Path, data: bytes) -> None:
    with all_or_none([path]) as (stream,):
        stream.write(data)
