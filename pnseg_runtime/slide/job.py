"""A slide that is ready to be worked on: opened, measured, planned."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.outputs.atomic import all_or_none, make_folder
from pnseg_runtime.sessions import AUTO, BACKENDS, default_precision, find_backend
from pnseg_runtime.slide import plan as plans
from pnseg_runtime.slide.area import Area, roi_on
from pnseg_runtime.slide.claims import Claims
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.outputs import THUMBNAIL, TISSUE, WORK, stem_of
from pnseg_runtime.slide.outputs.pictures import draw_tissue
from pnseg_runtime.slide.plan import Plan
from pnseg_runtime.slide.readers import SlideReader, open_slide
from pnseg_runtime.slide.readers.base import Pixels
from pnseg_runtime.slide.resolution import Resolution, resolve
from pnseg_runtime.slide.store import Store, earlier_plans
from pnseg_runtime.slide.tissue import Thumbnail, find_tissue, thumbnail_of
from pnseg_runtime.softening import Blurs

#: Options of a prediction that a slide's result does not depend on.
_NOT_THE_RESULTS = ("threads", "workers", "queue", "macro_tile", "macro_margin")


@dataclass(frozen=True)
class Model:
    """A bundle and how it is to predict; small enough to be sent to other machines.

    Attributes:
        bundle: a shipped bundle's name or a bundle's folder.
        options: choices of the prediction.
        backend: a name in :data:`pnseg_runtime.sessions.BACKENDS`, or ``"auto"``.

    Raises:
        BackendError: there is no such backend, or it takes whole images alone.
    """

    bundle: str
    options: Options
    backend: str = "onnxruntime"

    def __post_init__(self) -> None:
        if self.backend != AUTO:
            find_backend(self.backend)

    def on(self, backend: str, precision: str) -> Model:
        """The same with a backend and a precision."""
        return replace(self, backend=backend, options=replace(self.options, precision=precision))

    def facts(self, opened: Bundle) -> dict[str, Any]:
        """What of the model a result depends on: all but the number of threads."""
        options = asdict(self.options)
        for name in _NOT_THE_RESULTS:
            options.pop(name)
        options["precision"] = self.options.precision or default_precision(self.backend, opened.manifest)
        manifest = opened.manifest.model_dump_json().encode()
        return {
            "name": opened.manifest.model,
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
            "backend": self.backend,
            "options": options,
        }

    def longest_view(self, opened: Bundle) -> int | None:
        """Side of the largest view that its engines take on every GPU, px; None where no engines may run."""
        engines = [engine for engine in opened.manifest.engines if engine.graph == "prompter"]
        if not engines or not (self.backend == AUTO or find_backend(self.backend).engines):
            return None
        return min(max(min(shapes["image"].largest[2:]) for shapes in engine.profiles) for engine in engines)


class Backends(Protocol):
    """Settles what ``auto`` stands for: see :class:`pnseg_runtime.slide.networks.Networks`."""

    def choose(self) -> Model:
        """The model with the fastest backend."""

    def starts(self, model: Model) -> bool:
        """Whether a model's backend starts where the cores are done."""


@dataclass(frozen=True)
class SlideJob:
    """A planned slide.

    Attributes:
        slide: its path.
        folder: where the outputs go.
        stem: what they are called.
        reader: the open slide.
        slide_sha256: hex, of its files.
        resolution: what the model sees of it.
        thumbnail: a small picture.
        area: where nuclei are looked for.
        plan: the cores.
        store: their files.
        model: what finds the nuclei, with a backend in place of ``auto``.
        bundle: the opened model.
        settings: what the model follows.
        started_anew: what has changed since earlier work that was thrown away, None if there was none.
    """

    slide: Path
    folder: Path
    stem: str
    reader: SlideReader
    slide_sha256: str
    resolution: Resolution
    thumbnail: Thumbnail
    area: Area
    plan: Plan
    store: Store
    model: Model
    bundle: Bundle
    settings: Settings
    started_anew: str | None = None

    @property
    def pictures(self) -> dict[str, Path]:
        """Suffix → file of the pictures that are drawn of every slide."""
        return {suffix: self.folder / f"{self.stem}{suffix}" for suffix in (THUMBNAIL, TISSUE)}

    @property
    def blurs(self) -> Blurs:
        """How far the slide is softened before the networks look."""
        return Blurs.of(self.settings, self.resolution.enlargement)

    def close(self) -> None:
        """Let go of the slide."""
        self.reader.close()


def prepare(
    slide: Path,
    folder: Path,
    model: Model,
    options: SlideOptions,
    say: Callable[[str], None] = lambda _: None,
    backends: Backends | None = None,
) -> SlideJob:
    """:func:`plan_slide`, and the folders of its work; for cores that a process which is at work hands out.

    Raises:
        OutputError: the folders cannot be made.
    """
    job = plan_slide(slide, folder, model, options, say, backends)
    try:
        job.store.open()
    except BaseException:
        job.close()
        raise
    return job


def plan_slide(
    slide: Path,
    folder: Path,
    model: Model,
    options: SlideOptions,
    say: Callable[[str], None] = lambda _: None,
    backends: Backends | None = None,
) -> SlideJob:
    """Open, measure and plan a slide; nothing is written.

    Args:
        slide: file, or folder of an OME-Zarr.
        folder: for the outputs.
        model: what finds the nuclei.
        options: what is looked at, and how.
        say: is told what is being done.
        backends: settles what ``auto`` stands for.

    Raises:
        BackendError: ``auto`` finds no backend that works.
        ImageError: the slide cannot be read, its microns per pixel are unknown, or the region of interest lies beside
            it.
        BundleError: the model cannot be opened.
    """
    bundle = Bundle.open(model.bundle)
    reader = open_slide(slide)
    try:
        roi = roi_on(reader, options.roi) if options.roi else None
        resolution = resolve(reader, bundle.manifest.mpp, options.mpp)
        say("looking for tissue")
        thumbnail = thumbnail_of(reader)
        tissue = find_tissue(thumbnail, resolution.slide_mpp) if options.tissue else None
        area = Area(tissue, thumbnail.scale, roi)
        say("hashing the slide")
        sha256 = plans.slide_hash(reader)
        settings, window = Settings.of(bundle.manifest, model.options), bundle.manifest.masking.window

        def plan_with(model: Model) -> Plan:
            side, _ = plans.grid(options, window, settings.overlap, model.longest_view(bundle))
            cut = replace(options, core=side)
            facts = plans.facts_of(sha256, reader, resolution, cut, area, model.facts(bundle))
            return plans.plan_of(resolution, area, cut, window=window, overlap=settings.overlap, facts=facts)

        stem = stem_of(slide)
        work = folder / f"{stem}{WORK}"
        if model.backend == AUTO and backends is not None:
            model = _settled(model, backends, work, plan_with)
        plan = plan_with(model)
    except BaseException:
        reader.close()
        raise
    store = Store(work, plan, str(slide.resolve()))
    return SlideJob(
        slide, folder, stem, reader, sha256, resolution, thumbnail, area, plan, store, model, bundle, settings
    )


@contextmanager
def at_work(job: SlideJob, say: Callable[[str], None]) -> Iterator[tuple[SlideJob, Claims]]:
    """Make the folders of a planned slide, and claim it until the end.

    Yields:
        The job, with what has changed since earlier work, and the claims on its cores.

    Raises:
        OutputError: the folder cannot be used, or another process works there under other conditions.
    """
    make_folder(job.folder)
    with job.store.at_work(say) as (claims, changed):
        yield replace(job, started_anew=changed), claims


def draw_pictures(job: SlideJob) -> None:
    """Draw the pictures of a result that is there where they are not there with it, or are others.

    Raises:
        OutputError: they cannot be written.
    """
    pictures = {job.pictures[suffix]: data for suffix, data in drawn(job).items()}
    others = [path for path, data in pictures.items() if not (path.is_file() and path.read_bytes() == data)]
    with all_or_none(others, job.store.drafts if job.store.drafts.is_dir() else None) as streams:
        for path, stream in zip(others, streams, strict=True):
            stream.write(pictures[path])


def drawn(job: SlideJob) -> dict[str, bytes]:
    """Suffix → PNG of the slide, and of what of it is looked at."""
    tissue = draw_tissue(job.thumbnail, job.area, job.plan, job.resolution)
    return {THUMBNAIL: _png(job.thumbnail.pixels), TISSUE: _png(tissue)}


def _png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def _settled(model: Model, backends: Backends, work: Path, plan_with: Callable[[Model], Plan]) -> Model:
    """The model with a backend in place of ``auto``: that of work which is there, if it starts, or the fastest.

    Which is the fastest may change from one run to the next; what has been done is worth more than that.
    """

    def begun() -> Model | None:
        return next((each for each in _begun(model, work, plan_with) if backends.starts(each)), None)

    # Timing takes a while in which another process may have begun.
    if (kept := begun()) is not None:
        return kept
    fastest = backends.choose()
    return begun() or fastest


def _begun(model: Model, work: Path, plan_with: Callable[[Model], Plan]) -> Iterator[Model]:
    """The model with each backend and precision with which nothing but these differs from a plan that is there."""
    for fingerprint, facts in earlier_plans(work):
        try:
            backend, precision = facts["model"]["backend"], facts["model"]["options"]["precision"]
        except (KeyError, TypeError):
            continue
        if backend in BACKENDS and model.options.precision in (None, precision):
            same = model.on(backend, precision)
            if plan_with(same).fingerprint == fingerprint:
                yield same
