"""Logging of the command line: silent unless asked."""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("pnseg")


def configure(*, verbose: bool) -> None:
    """Send log records to standard error; without ``verbose`` only pnseg's own warnings.

    Libraries log every oddity of a damaged file, which the error sentence already sums up, so they
    speak only when asked.
    """
    logging.captureWarnings(True)
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s", level=logging.DEBUG if verbose else logging.CRITICAL
    )
    LOGGER.setLevel(logging.DEBUG if verbose else logging.WARNING)
    # Pillow and matplotlib trace every chunk at this level, which buries the rest.
    for chatty in ("PIL", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.INFO if verbose else logging.CRITICAL)
