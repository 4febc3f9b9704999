"""ONNX Runtime's execution providers for NVIDIA GPUs: CUDA, TensorRT and TensorRT for RTX.

Not run on a GPU yet: what can be shown without one is that a provider that does not start is an error.
"""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnxruntime

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError
from pnseg_runtime.sessions import BACKENDS, Opening, Runner
from pnseg_runtime.sessions.cache import writable
from pnseg_runtime.sessions.onnxruntime import CPU, first_line, runner, session_options

#: Providers that have to leave something to the CPU: shapes, which are a few numbers. The others take all or nothing.
SHAPES_ON_CPU = {"CUDAExecutionProvider"}


def problem(opening: Opening) -> str | None:
    """Why the provider cannot be started at all, None if it may."""
    backend = BACKENDS[opening.backend]
    if backend.provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {backend.provider}; run: {backend.install}"
    return None


def provider_settings(provider: str, cache: Path | None) -> dict[str, Any]:
    """A provider's options: engines and timings are kept, so that only the first start is slow."""
    if provider == "TensorrtExecutionProvider" and cache is not None:
        kept = os.fspath(cache)
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": kept,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": kept,
        }
    if provider == "NvTensorRTRTXExecutionProvider" and cache is not None:
        return {"nv_runtime_cache_path": os.fspath(cache)}
    if provider != "CUDAExecutionProvider":
        return {}
    return {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}


def open_network(bundle: Bundle, graph: str, opening: Opening) -> Runner:
    """One of a bundle's networks on the GPU.

    Raises:
        BackendError: the provider does not start, or, being TensorRT's, would leave part of the network to the CPU.
        BundleError: the bundle has no such graph.
    """
    backend = BACKENDS[opening.backend]
    path = bundle.path(graph, opening.precision)
    options = session_options(opening.threads)
    if backend.provider not in SHAPES_ON_CPU:  # by itself ONNX Runtime logs a line and computes on the CPU
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    preload_libraries()
    settings = provider_settings(backend.provider, writable(bundle.folder))
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=[(backend.provider, settings)], enable_fallback=0
        )
    except Exception as error:
        raise BackendError(not_started(backend.name, first_line(error))) from error
    if (first := (session.get_providers() or [CPU])[0]) != backend.provider:
        raise BackendError(not_started(backend.name, f"ONNX Runtime chose {first} instead"))
    return runner(session, path)


def preload_libraries() -> None:
    """Load the libraries of CUDA and cuDNN that pip has installed, which no loader looks for by itself."""
    if preload := getattr(onnxruntime, "preload_dlls", None):
        with redirect_stdout(StringIO()):  # it prints what it does not find; the provider's own error says it, too
            preload()


def not_started(backend: str, reason: str) -> str:
    """The sentence for a provider that was asked for and did not start."""
    return (
        f"{backend}: {BACKENDS[backend].provider} does not start ({reason}); run pnseg doctor to see what is missing."
    )
