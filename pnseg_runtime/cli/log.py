"""Logging of the command line: silent unless asked."""

from __future__ import annotations

import logging
import sys

LOGGER = logging.getLogger("pnseg")
# Some modules log under the project's name, others under their own.
OWN = ("pnseg", "pnseg_runtime", "pnseg_train", "pnseg_export")


class _StandardError(logging.Handler):
    # Wherever it leads at the time: a progress bar takes its place, so that lines go above the bar.
    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def configure(*, verbose: bool) -> None:
    """Send log records to standard error; without ``verbose`` only warnings of pnseg's own packages.

    Libraries log every oddity of a damaged file, which the error sentence already sums up, so they
    speak only when asked.
    """
    logging.captureWarnings(True)
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s",
        level=logging.DEBUG if verbose else logging.CRITICAL,
        handlers=[_StandardError()],
    )
    for name in OWN:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)
    # Pillow and matplotlib trace every chunk at this level, which buries the rest.
    for chatty in ("PIL", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.INFO if verbose else logging.CRITICAL)
