"""Whole slides: any scanner's file in, every nucleus out, in bounded memory, resumable.

>>> from pnseg_runtime.slide import segment_slide
>>> result = segment_slide("slide.svs", "results")
>>> result.nuclei, result.per_mm2, result.outputs[".parquet"]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.slide.claims import Claims
from pnseg_runtime.slide.job import Model, SlideJob, at_work, draw_pictures, plan_slide
from pnseg_runtime.slide.join import SlideResult, current_result, write_results
from pnseg_runtime.slide.networks import Networks
from pnseg_runtime.slide.options import SlideOptions
from pnseg_runtime.slide.outputs import KINDS
from pnseg_runtime.slide.outputs.labels import check_zarr
from pnseg_runtime.slide.rivals import refuse_replacing, refuse_rivals
from pnseg_runtime.slide.watch import Watcher
from pnseg_runtime.slide.work import Busy, work_on

__all__ = ["KINDS", "Busy", "Model", "Networks", "SlideOptions", "SlideResult", "run_slide", "segment_slide"]

#: Claimed by the process that writes the outputs.
JOIN = "join"


def segment_slide(
    slide: str | Path,
    out: str | Path,
    bundle: str | Path = "nano",
    *,
    only: Sequence[str] = tuple(KINDS),
    backend: str = "onnxruntime",
    mpp: float | None = None,
    tissue: bool = True,
    roi: str | None = None,
    core: int | None = SlideOptions.core,
    margin: int = SlideOptions.margin,
    overwrite: bool = True,
    keep_work: bool = True,
    **options: Any,
) -> SlideResult:
    """Find every nucleus of a slide or image of any size.

    Work that an earlier call has left in ``out`` under the same conditions is taken up.

    Args:
        slide: a file, or the folder of an OME-Zarr.
        out: folder for the results.
        bundle: a shipped bundle's name or a bundle's folder.
        only: kinds of output, names in :data:`KINDS`.
        backend: a name in :data:`pnseg_runtime.sessions.BACKENDS`, or ``"auto"``.
        mpp, tissue, roi, core, margin: see :class:`SlideOptions`.
        overwrite: replace the results of an earlier call under other conditions.
        keep_work: keep the files of the cores, for other outputs later.
        options: fields of :class:`pnseg_runtime.options.Options`.

    Raises:
        ImageError: the slide cannot be read, its microns per pixel are unknown, the region of interest lies beside
            it, or ``out`` holds results of another slide under its name.
        BundleError, BackendError: the model cannot be used.
        OutputError: the results cannot be written, or exist and ``overwrite`` is False.
        TypeError, ValueError: an option that does not exist or makes no sense.
    """
    model = Model(str(bundle), Options(**options), backend)
    chosen = SlideOptions(mpp, tissue, roi, core, margin)
    return run_slide(Path(slide), Path(out), model, chosen, only, overwrite=overwrite, keep_work=keep_work)


def run_slide(
    slide: Path,
    out: Path,
    model: Model,
    options: SlideOptions,
    kinds: Sequence[str] = tuple(KINDS),
    *,
    watcher: Watcher | None = None,
    segmenter: Segmenter | None = None,
    networks: Networks | None = None,
    overwrite: bool = True,
    keep_work: bool = True,
    wait: bool = True,
) -> SlideResult:
    """:func:`segment_slide` with everything that it takes made before.

    Args:
        slide, out, model, options, kinds, overwrite, keep_work: see there.
        watcher: is told of the progress.
        segmenter: the model, already open.
        networks: of the command, where it does several slides.
        wait: for what other processes do of the slide.

    Raises:
        Busy: they do what is left of it, and it does not wait.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such output; choose from {', '.join(KINDS)}.")
    if "labels" in kinds:
        check_zarr()
    watcher = watcher or Watcher()
    start = time.perf_counter()
    networks = networks or Networks(model, watcher, segmenter)
    with closing(plan_slide(slide, out, model, options, watcher.say, networks)) as planned:
        if (result := done_before(planned, kinds, watcher)) is not None:
            return result
        refuse_rivals(planned)
        if not overwrite:
            refuse_replacing(planned, kinds)
        if not planned.store.all_done():  # networks that do not start are no reason to lose what others have found
            networks.segmenter(planned.model)
        with at_work(planned, watcher.say) as (job, claims):
            watcher.planned(job)
            seconds = {"prepare": time.perf_counter() - start}
            if not job.store.all_done():
                seconds |= work_on(job, networks.segmenter(job.model), claims, watcher.core_done, wait=wait)
            return finish(job, claims, kinds, watcher, seconds, start, keep_work=keep_work, wait=wait)


def done_before(job: SlideJob, kinds: Sequence[str], watcher: Watcher) -> SlideResult | None:
    """The result of an earlier run that has kept no work; None if there is anything to do.

    Work that was kept is looked at first: files of it that are damaged or gone are done again.
    """
    if job.store.folder.exists() or not all(path.exists() for path in job.pictures.values()):
        return None
    result = current_result(job, kinds)
    if result is not None:
        draw_pictures(job)
        watcher.current(result)
        watcher.done(result)
    return result


def finish(
    job: SlideJob,
    claims: Claims,
    kinds: Sequence[str],
    watcher: Watcher,
    seconds: dict[str, float],
    start: float,
    *,
    keep_work: bool,
    wait: bool = True,
) -> SlideResult:
    """Write the outputs of a slide whose cores are all settled, unless they are there; of several processes one does.

    The last of them clears up: what looks left over may be another's that is still being written, and what is done
    another's that has joined meanwhile.
    """
    while not claims.take(JOIN):
        if not wait:
            raise Busy
        watcher.say("another process is writing the results")
        time.sleep(0.5)
    job.store.clear_drafts(claims)
    started = time.perf_counter()
    seconds["total without outputs"] = started - start
    result = current_result(job, kinds)
    if result is not None:
        draw_pictures(job)
        watcher.current(result)
    else:
        result = write_results(job, kinds, seconds, watcher.writing)
    if not keep_work:
        job.store.remove(claims)
    watcher.done(result)
    return result
