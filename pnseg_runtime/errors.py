"""Errors a user can act on: one sentence that names the file and the remedy."""

from __future__ import annotations


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
