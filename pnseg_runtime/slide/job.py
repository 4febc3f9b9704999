"""A slide that is ready to be worked on: opened, measured, planned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.outputs.atomic import all_or_none, make_folder
from pnseg_runtime.sessions import AUTO, default_precision, find_backend
from pnseg_runtime.slide import plan as plans
from pnseg_runtime.slide.area import Area, read_roi
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.outputs import THUMBNAIL, TISSUE, WORK, stem_of
from pnseg_runtime.slide.outputs.pictures import draw_tissue
from pnseg_runtime.slide.plan import Plan
from pnseg_runtime.slide.readers import SlideReader, open_slide
from pnseg_runtime.slide.resolution import Resolution, resolve
from pnseg_runtime.slide.store import Store
from pnseg_runtime.slide.tissue import Thumbnail, find_tissue, thumbnail_of

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


@dataclass(frozen=True)
class Job:
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
    bundle: Bundle
    settings: Settings
    started_anew: str | None = None

    def close(self) -> None:
        """Let go of the slide."""
        self.reader.close()


def prepare(
    slide: Path,
    folder: Path,
    model: Model,
    options: SlideOptions,
    say: Callable[[str], None] = lambda _: None,
) -> Job:
    """Open, measure and plan a slide, and make its folder.

    Args:
        slide: file, or folder of an OME-Zarr.
        folder: for the outputs.
        model: what finds the nuclei.
        options: what is looked at, and how.
        say: is told what is being done.

    Raises:
        ImageError: the slide cannot be read, or its microns per pixel are unknown.
        BundleError: the model cannot be opened.
        OutputError: the folder cannot be used.
    """
    bundle = Bundle.open(model.bundle)
    reader = open_slide(slide)
    try:
        resolution = resolve(reader, bundle.manifest.mpp, options.mpp)
        say("looking for tissue")
        thumbnail = thumbnail_of(reader)
        tissue = find_tissue(thumbnail, resolution.slide_mpp) if options.tissue else None
        area = Area(tissue, thumbnail.scale, read_roi(options.roi) if options.roi else None)
        say("hashing the slide")
        sha256 = plans.slide_hash(reader)
        settings, window = Settings.of(bundle.manifest, model.options), bundle.manifest.masking.window
        side, _ = plans.grid(options, window, settings.overlap, model.longest_view(bundle))
        options = replace(options, core=side)
        plan = plans.plan_of(
            resolution,
            area,
            options,
            window=window,
            overlap=settings.overlap,
            facts=plans.facts_of(sha256, reader, resolution, options, area, model.facts(bundle)),
        )
        make_folder(folder)
        stem = stem_of(slide)
        store = Store(folder / f"{stem}{WORK}", plan)
        message = store.open()
        pictures = [folder / f"{stem}{suffix}" for suffix in (THUMBNAIL, TISSUE)]
        if not all(path.exists() for path in (*pictures, store.pictured)):
            with all_or_none(pictures, store.drafts) as (small, drawn):
                Image.fromarray(thumbnail.pixels).save(small, format="PNG")
                Image.fromarray(draw_tissue(thumbnail, area, plan, resolution)).save(drawn, format="PNG")
            store.pictured.touch()
    except BaseException:
        reader.close()
        raise
    return Job(slide, folder, stem, reader, sha256, resolution, thumbnail, area, plan, store, bundle, settings, message)
