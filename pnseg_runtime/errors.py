"""Errors a user can act on: one sentence that names the file and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PnsegError(Exception):
    """Base of every error that is shown to the user as one sentence, without a traceback."""


class ImageError(PnsegError):
    """An input image is missing, unreadable or of a kind that cannot be segmented."""


class BundleError(PnsegError):
    """A bundle is missing, damaged, or made for another version of pnseg."""


class OutputError(PnsegError):
    """A result cannot be written."""


class BackendError(PnsegError):
    """An inference backend that was asked for is missing or does not start."""


class ProviderError(BackendError):
    """A provider of ONNX Runtime that is installed does not start."""


class QueueFullError(PnsegError):
    """There was no place in a segmenter's queue."""


class PredictionCancelledError(PnsegError):
    """A prediction was called off."""

    def __init__(self, sentence: str = "The prediction was cancelled.") -> None:
        super().__init__(sentence)


def one_line(error: BaseException) -> str:
    """What an exception says first, without the full stop; its type's name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")


def first_fault(error: ValidationError, whole: str) -> str:
    """Where a document is not valid first, and why; ``whole`` is what it is called where all of it is not."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"
