"""Inference backends: a registry that is data, one small module a backend.

A backend's module has one function, ``open_session(path, threads)``, which gives back a
:data:`Runner` for the network in a file. Nothing of it is imported until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError

#: A network: named input arrays to named output arrays.
Runner = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Backend:
    """A way to run a bundle's networks.

    Attributes:
        name: what the user asks for.
        module: where its ``open_session`` is.
        needs: the package it runs on.
        install: what gives that package.
    """

    name: str
    module: str
    needs: str
    install: str


BACKENDS = {
    backend.name: backend
    for backend in [
        Backend("onnxruntime", "pnseg_runtime.sessions.onnxruntime", "onnxruntime", "pip install pnseg"),
    ]
}


@dataclass(frozen=True)
class Sessions:
    """A bundle's three networks, ready to run (their tensors: see :mod:`pnseg_runtime.pipeline`)."""

    prompter: Runner
    encoder: Runner
    decoder: Runner


def open_sessions(
    bundle: Bundle, backend: str = "onnxruntime", threads: int | None = None, precision: str = "float32"
) -> Sessions:
    """Open a bundle's networks with a backend.

    Args:
        bundle: an opened bundle.
        backend: a name in :data:`BACKENDS`.
        threads: CPU threads of an operator, None for the physical cores at hand.
        precision: of the graphs, one of the manifest's ``precisions``.

    Raises:
        BackendError: an unknown backend, or one whose package is missing or does not start.
        BundleError: a network that the backend cannot read, or a precision that the bundle does not have.
    """
    if backend not in BACKENDS:
        raise BackendError(f"{backend}: no such backend; choose one of {', '.join(BACKENDS)}.")
    entry = BACKENDS[backend]
    try:
        open_session = import_module(entry.module).open_session
    except ImportError as error:
        raise BackendError(f"{entry.name}: {entry.needs} does not import ({error}); run: {entry.install}") from error
    names = ("prompter", "encoder", "decoder")
    return Sessions(**{name: open_session(bundle.path(name, precision), threads) for name in names})
