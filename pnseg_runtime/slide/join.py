"""All cores → the final outputs, read one by one in the order of the plan: memory does not grow."""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pnseg_runtime import __version__
from pnseg_runtime.bundle import sha256_of
from pnseg_runtime.outputs.atomic import all_or_none
from pnseg_runtime.plausible import Diameters
from pnseg_runtime.slide.job import Job
from pnseg_runtime.slide.outputs import KINDS, RUN, output_paths
from pnseg_runtime.slide.outputs.labels import write_labels
from pnseg_runtime.slide.outputs.pictures import PictureSink
from pnseg_runtime.slide.outputs.rows import GeoJsonSink, ParquetSink, Sink

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
    def per_mm2(self) -> float:
        """Nuclei per mm² of what was looked at."""
        return self.nuclei / self.area_mm2 if self.area_mm2 else 0.0


def write_results(
    job: Job, kinds: Sequence[str], seconds: dict[str, float], on_part: OnPart = lambda *_: None
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
    cores, table = job.plan.cores, job.bundle.manifest.class_table
    paths = output_paths(job.folder, job.stem, kinds)
    files = {suffix: path for suffix, path in paths.items() if suffix != ".labels.zarr"}
    firsts, classes, stages, unreadable, total = [], Counter[str](), Counter[str](), [], 0
    diameters = Diameters()
    with ExitStack() as stack:
        run = run_path(job)
        *streams, run_stream = stack.enter_context(all_or_none([*files.values(), run], job.store.drafts))
        stream = dict(zip(files, streams, strict=True))
        pictures = PictureSink(job.thumbnail, table, job.resolution.slide_mpp)
        sinks: list[Sink] = [pictures]
        plain, packed = ([stream[name]] if name in stream else [] for name in (".geojson", ".geojson.gz"))
        if plain or packed:
            sinks.append(GeoJsonSink(plain, packed, job.slide_sha256, table, job.resolution.slide_mpp))
        if ".parquet" in stream:
            sinks.append(ParquetSink(stream[".parquet"]))
        for sink in sinks:  # after an error, before the streams close under those that would still write
            stack.callback(sink.release)
        for done, core in enumerate(cores):
            on_part("outlines and table", done, len(cores))
            rows = job.store.load_settled(core)
            firsts.append(total + 1)
            for sink in sinks:
                sink.add(core.name, rows, total + 1)
            total += rows.num_rows
            classes.update(rows["class"].to_pylist())
            diameters.add(rows["area_um2"].to_numpy())
            found = job.store.load_found(core)
            stages.update(found.timings or {})
            unreadable += [(box, reason) for box, reason in found.unreadable]
        for sink in sinks:
            sink.close()
        if ".density.png" in stream:
            pictures.write_density(stream[".density.png"])
            pictures.write_classes(stream[".classes.png"])
        labels = job.store.drafts / f"{uuid.uuid4().hex}.zarr"
        stack.callback(shutil.rmtree, labels, ignore_errors=True)
        if ".labels.zarr" in paths:
            on_part("label image", 0, 1)
            _write_labels(job, firsts, labels)
        area = job.area.area_px(job.reader.shape) * (job.resolution.slide_mpp / 1000) ** 2
        result = SlideResult(
            slide=job.slide,
            run=run,
            outputs=paths,
            nuclei=total,
            classes={kind.name: classes[kind.name] for kind in table},
            area_mm2=area,
            cores=len(cores),
            unreadable=_regions(unreadable),
            median_diameter=diameters.median,
            doubt=diameters.doubt(job.resolution.slide_mpp),
            started_anew=job.started_anew,
        )
        outputs = _settle_earlier(job, result) | paths
        facts = _run_facts(job, result, outputs, {"cores": dict(stages), "this process": seconds})
        for each in stream.values():
            each.flush()
        # Bytes of a name that are no UTF-8 become what JSON escapes them with, and so are read as they were.
        run_stream.write(json.dumps(facts, indent=2, ensure_ascii=False).encode(errors="backslashreplace"))
        if ".labels.zarr" in paths:
            _replace(paths[".labels.zarr"], labels)
    return result


def _write_labels(job: Job, firsts: Sequence[int], draft: Path) -> None:
    write_labels(
        draft,
        job.stem,
        job.store,
        firsts,
        job.resolution,
        job.reader.shape,
        job.bundle.manifest.class_table,
        reach=job.bundle.manifest.masking.window,
    )


def _replace(target: Path, draft: Path) -> None:
    """Move a folder to where another may be."""
    old = draft.with_suffix(".old")
    try:
        if target.exists():
            target.rename(old)
        draft.rename(target)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _settle_earlier(job: Job, result: SlideResult) -> dict[str, Path]:
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
    for path in found.values():
        if path in result.outputs.values():  # is replaced when all of them are
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return {}


def _regions(unreadable: list[tuple[tuple[int, int, int, int], str]]) -> list[dict[str, Any]]:
    """Each unreadable box once, though the views of several cores hold it."""
    found = {tuple(box): reason for box, reason in unreadable}
    return [{"box": list(box), "reason": reason} for box, reason in sorted(found.items())]


def _run_facts(
    job: Job, result: SlideResult, outputs: dict[str, Path], timings: dict[str, dict[str, float]]
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
        "nuclei_per_mm2": round(result.per_mm2, 3),
        "cores": len(job.plan.cores),
        "unreadable": result.unreadable,
        "outputs": {suffix: path.name for suffix, path in outputs.items()},
        "timings": {part: {k: round(v, 3) for k, v in stages.items()} for part, stages in timings.items()},
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
    }


def run_path(job: Job) -> Path:
    """The ``run.json`` of a slide."""
    return job.folder / f"{job.stem}{RUN}"


def current_result(job: Job, kinds: Sequence[str]) -> SlideResult | None:
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


def earlier_facts(job: Job) -> dict[str, Any]:
    """What the ``run.json`` of an earlier run says; empty if there is none that can be read."""
    try:
        facts = json.loads(run_path(job).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def hashes(result: SlideResult) -> dict[str, str]:
    """File → hex SHA-256 of the outputs; a folder stands for its files."""
    found = {}
    for path in result.outputs.values():
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found[str(file.relative_to(result.run.parent))] = sha256_of(file)
    return found
