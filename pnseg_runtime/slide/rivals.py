"""Slides of one name in different folders: the results of one would take the place of the other's."""

from __future__ import annotations

from pathlib import Path

from pnseg_runtime.errors import ImageError
from pnseg_runtime.slide.job import Job
from pnseg_runtime.slide.join import earlier_facts
from pnseg_runtime.slide.store import earlier_slides


def rivals(slide: object, other: object) -> ImageError:
    """What two slides are told whose results would have one name."""
    return ImageError(f"{slide}: its results would be named as those of {other}; use another --out for one of them.")


def refuse_rivals(job: Job) -> None:
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
