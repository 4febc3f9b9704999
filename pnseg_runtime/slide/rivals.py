"""Results that would take the place of others: of a slide of the same name, or of other options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pnseg_runtime.errors import ImageError
from pnseg_runtime.outputs import refuse_existing
from pnseg_runtime.slide.job import SlideJob
from pnseg_runtime.slide.join import earlier_facts, run_path
from pnseg_runtime.slide.outputs import RUN, output_paths
from pnseg_runtime.slide.store import earlier_slides


def rivals(slide: object, other: object) -> ImageError:
    """What two slides are told whose results would have one name."""
    return ImageError(f"{slide}: its results would be named as those of {other}; use another --out for one of them.")


def refuse_rivals(job: SlideJob) -> None:
    """See that neither results nor work under the name of a planned slide are those of another one.

    A file that is gone is no rival: it may have been moved, or replaced by this one.

    Raises:
        ImageError: another slide, which is still where it was, has them.
    """
    told = earlier_facts(job).get("slide")
    finished = [(told.get("path"), told.get("sha256"))] if isinstance(told, dict) else []
    here = job.slide.resolve()
    for path, sha256 in (*finished, *earlier_slides(job.store.root)):
        if not isinstance(path, str) or not path or sha256 == job.slide_sha256:
            continue
        if Path(path) != here and Path(path).exists():
            raise rivals(job.slide, path)


def refuse_replacing(job: SlideJob, kinds: Sequence[str]) -> None:
    """See that the outputs of a planned slide take the place of none but those of the same plan.

    Raises:
        OutputError: there are outputs of its name that are of other options, or of nobody knows what.
    """
    facts, paths = earlier_facts(job), output_paths(job.folder, job.stem, kinds) | {RUN: run_path(job)}
    same = facts.get("fingerprint") == job.plan.fingerprint
    own = {RUN, *facts.get("outputs", ())} if same else ()
    refuse_existing(path for suffix, path in paths.items() if suffix not in own)
