"""All cores → the final outputs, read one by one in the order of the plan: memory does not grow."""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pnseg_runtime import __version__
from pnseg_runtime.errors import OutputError, one_line
from pnseg_runtime.outputs.atomic import all_or_none
from pnseg_runtime.plausible import Diameters
from pnseg_runtime.slide.core import Found
from pnseg_runtime.slide.job import SlideJob, drawn
from pnseg_runtime.slide.outputs import FOLDERS, KINDS, RUN, output_paths
from pnseg_runtime.slide.outputs.rows import Part
from pnseg_runtime.slide.readers.base import Box

OnPart = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SlideResult:
    """A slide that is done.

    Attributes:
        slide: its path.
        run: the ``run.json``.
        outputs: suffix → file or folder.
        nuclei: how many.
        classes: class → how many.
        area_mm2: what was looked at.
        cores: how many parts that was done in, 0 if there was nothing to look at.
        unreadable: parts that could not be decoded, as in ``run.json``.
        median_diameter: of a disc of a nucleus's area, µm; None without nuclei.
        doubt: why the microns per pixel are hardly right, None if nothing speaks against them.
        started_anew: what has changed since earlier work that was thrown away, None if there was none.
    """

    slide: Path
    run: Path
    outputs: dict[str, Path]
    nuclei: int
    classes: dict[str, int]
    area_mm2: float
    cores: int
    unreadable: list[dict[str, Any]]
    median_diameter: float | None = None
    doubt: str | None = None
    started_anew: str | None = None

    @property
    def per_mm2(self) -> float | None:
        """Nuclei per mm² of what was looked at; None where that is nothing."""
        return self.nuclei / self.area_mm2 if self.area_mm2 else None


def write_results(
    job: SlideJob, kinds: Sequence[str], seconds: dict[str, float], on_part: OnPart = lambda *_: None
) -> SlideResult:
    """Write the outputs; the same nuclei give the same bytes, ``run.json`` and its timings apart.

    Outputs of an earlier run stay and are listed with the new ones if they are of the same result, and are removed if
    they are of another.

    Args:
        job: the slide, all cores of which are settled.
        kinds: names in :data:`pnseg_runtime.slide.outputs.KINDS`.
        seconds: stage → seconds that this process has spent, for ``run.json``.
        on_part: is told what is being written, how many cores of it are done, and of how many.

    Raises:
        OutputError: something cannot be written.
    """
    paths = output_paths(job.folder, job.stem, kinds)
    folders = {suffix: job.store.drafts / uuid.uuid4().hex for suffix in paths if suffix in FOLDERS}
    files = {suffix: path for suffix, path in paths.items() if suffix not in FOLDERS} | job.pictures
    with ExitStack() as stack:
        for draft in folders.values():
            stack.callback(shutil.rmtree, draft, ignore_errors=True)
        with all_or_none([*files.values(), run_path(job)], job.store.drafts) as (*streams, run_stream):
            places = dict(zip(files, streams, strict=True))
            tally = _pour(job, paths, kinds, places | folders, on_part)
            for suffix, picture in drawn(job).items():
                places[suffix].write(picture)
            for stream in streams:  # before anything of an earlier run is removed
                stream.flush()
            result = _result_of(job, paths, tally)
            outputs = _settle_earlier(job, result) | paths
            facts = _run_facts(job, result, outputs, {"cores": dict(tally.stages), "this process": seconds})
            # Bytes of a name that are no UTF-8 become what JSON escapes them with, and so are read as they were.
            run_stream.write(json.dumps(facts, indent=2, ensure_ascii=False).encode(errors="backslashreplace"))
        for suffix, draft in folders.items():
            with _told_of(paths[suffix]):
                _replace(paths[suffix], draft)
    return result


@dataclass
class _Tally:
    """What is counted while the cores are read.

    Attributes:
        nuclei: how many.
        classes: class → how many.
        stages: stage → seconds.
        unreadable: boxes in px of level 0, with the reason.
        diameters: of the nuclei.
    """

    nuclei: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[Box, str]] = field(default_factory=list)
    diameters: Diameters = field(default_factory=Diameters)

    def add(self, rows: pa.Table, found: Found) -> None:
        self.nuclei += rows.num_rows
        self.classes.update(rows["class"].to_pylist())
        self.diameters.add(rows["area_um2"].to_numpy())
        self.stages.update(found.timings or {})
        self.unreadable += found.unreadable


def _pour(
    job: SlideJob, paths: dict[str, Path], kinds: Sequence[str], places: dict[str, BinaryIO | Path], on_part: OnPart
) -> _Tally:
    """Read the cores once, and give their nuclei to all outputs."""
    tally, sinks = _Tally(), {}
    with ExitStack() as stack:
        for kind in dict.fromkeys(kinds):
            suffixes = KINDS[kind].suffixes
            with _told_of(path := paths[suffixes[0]]):
                sinks[path] = KINDS[kind].open(job, [places[suffix] for suffix in suffixes])
            # After an error, before the streams close under those that would still write.
            stack.callback(sinks[path].release)
        for done, core in enumerate(job.plan.cores):
            on_part("outlines and table", done, len(job.plan.cores))
            part = Part(job, core, job.store.load_settled(core), tally.nuclei + 1)
            for path, sink in sinks.items():
                with _told_of(path):
                    sink.add(part)
            tally.add(part.rows, job.store.load_found(core))
        for path, sink in sinks.items():
            on_part(path.name, 0, 1)
            with _told_of(path):
                sink.close()
    return tally


def _result_of(job: SlideJob, paths: dict[str, Path], tally: _Tally) -> SlideResult:
    return SlideResult(
        slide=job.slide,
        run=run_path(job),
        outputs=paths,
        nuclei=tally.nuclei,
        classes={kind.name: tally.classes[kind.name] for kind in job.bundle.manifest.class_table},
        area_mm2=job.area.area_px(job.reader.shape) * (job.resolution.slide_mpp / 1000) ** 2,
        cores=len(job.plan.cores),
        unreadable=_regions(tally.unreadable),
        median_diameter=tally.diameters.median,
        doubt=tally.diameters.doubt(job.resolution.slide_mpp),
        started_anew=job.started_anew,
    )


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Tell an error of the disk of the output that it is about, which is not the first of those that are open."""
    try:
        yield
    except OSError as error:
        why = error.strerror or one_line(error)
        raise OutputError(f"{path}: cannot be written ({why}); choose another folder or make room.") from error


def _replace(target: Path, draft: Path) -> None:
    """Move a folder to where another may be."""
    old = draft.with_suffix(".old")
    try:
        if target.exists():
            target.rename(old)
        draft.rename(target)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _settle_earlier(job: SlideJob, result: SlideResult) -> dict[str, Path]:
    """The outputs that an earlier run lists and that are this result's too; those of another result are removed.

    The ``run.json`` of the other goes first: whoever is killed then leaves none that lists files of this one.
    """
    earlier = earlier_facts(job)
    listed = earlier.get("outputs")
    found = {
        suffix: path
        for suffix, path in output_paths(job.folder, job.stem, KINDS).items()
        if isinstance(listed, dict) and listed.get(suffix) == path.name and path.exists()
    }
    if (earlier.get("fingerprint"), earlier.get("unreadable")) == (job.plan.fingerprint, result.unreadable):
        return found
    result.run.unlink(missing_ok=True)
    files = {path for suffix, path in result.outputs.items() if suffix not in FOLDERS}  # replaced when all of them are
    # A folder takes its name when the files have theirs: until then none of another result has it.
    folders = {path for suffix, path in result.outputs.items() if suffix in FOLDERS and path.exists()}
    for path in sorted({*found.values(), *folders} - files):
        with _told_of(path):
            _remove(path)
    return {}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _regions(unreadable: list[tuple[Box, str]]) -> list[dict[str, Any]]:
    """Each unreadable box once, though the views of several cores hold it."""
    found = dict(unreadable)
    return [{"box": list(box), "reason": reason} for box, reason in sorted(found.items())]


def _run_facts(
    job: SlideJob, result: SlideResult, outputs: dict[str, Path], timings: dict[str, dict[str, float]]
) -> dict[str, Any]:
    height, width = job.reader.shape
    resolution = job.resolution
    kinds = [kind.name for kind in KINDS.values() if outputs.keys() >= set(kind.suffixes)]
    return {
        "pnseg": __version__,
        "slide": {
            "path": str(job.slide.resolve()),
            "sha256": job.slide_sha256,
            "reader": job.reader.name,
            "width": width,
            "height": height,
            "levels": [asdict(level) for level in job.reader.levels],
            "mpp_stated": job.reader.facts.mpp,
        },
        "resolution": {
            "slide_mpp": resolution.slide_mpp,
            "model_mpp": job.bundle.manifest.mpp,
            "work_mpp": resolution.work_mpp,
            "level": resolution.level,
            "scale": resolution.scale,
        },
        "model": job.plan.facts["model"],
        "options": job.plan.facts["options"] | {"only": kinds},
        "fingerprint": job.plan.fingerprint,
        "classes": [{"name": kind.name, "color": list(kind.color)} for kind in job.bundle.manifest.class_table],
        "nuclei": result.nuclei,
        "nuclei_of_class": result.classes,
        "median_diameter_um": result.median_diameter and round(result.median_diameter, 3),
        "doubt": result.doubt,
        "area_mm2": round(result.area_mm2, 6),
        "nuclei_per_mm2": None if result.per_mm2 is None else round(result.per_mm2, 3),
        "cores": len(job.plan.cores),
        "unreadable": result.unreadable,
        "outputs": {suffix: path.name for suffix, path in outputs.items()},
        "timings": {part: {k: round(v, 3) for k, v in stages.items()} for part, stages in timings.items()},
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
    }


def run_path(job: SlideJob) -> Path:
    """The ``run.json`` of a slide."""
    return job.folder / f"{job.stem}{RUN}"


def current_result(job: SlideJob, kinds: Sequence[str]) -> SlideResult | None:
    """The result that an earlier run has written, if it is this plan's, whole, and all its files are there.

    With unreadable parts it is none: the file may be readable now.
    """
    facts, paths = earlier_facts(job), output_paths(job.folder, job.stem, kinds)
    if facts.get("fingerprint") != job.plan.fingerprint or facts.get("unreadable") != []:
        return None
    listed = facts.get("outputs", {})
    if not all(suffix in listed and path.exists() for suffix, path in paths.items()):
        return None
    try:
        return SlideResult(
            slide=job.slide,
            run=run_path(job),
            outputs=paths,
            nuclei=facts["nuclei"],
            classes=facts["nuclei_of_class"],
            area_mm2=facts["area_mm2"],
            cores=facts["cores"],
            unreadable=[],
            median_diameter=facts["median_diameter_um"],
            doubt=facts["doubt"],
            started_anew=job.started_anew,
        )
    except KeyError:
        return None


def earlier_facts(job: SlideJob) -> dict[str, Any]:
    """What the ``run.json`` of an earlier run says; empty if there is none that can be read."""
    try:
        facts = json.loads(run_path(job).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
