"""ONNX Runtime's execution providers for NVIDIA GPUs: CUDA, TensorRT and TensorRT for RTX.

Not run on a GPU yet: what can be shown without one is that a provider that does not start is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path

import onnxruntime

from pnseg_runtime.bundle import Bundle, GraphName, Manifest
from pnseg_runtime.errors import ProviderError, one_line
from pnseg_runtime.limits import USUAL
from pnseg_runtime.options import COARSEST_STRIDE
from pnseg_runtime.sessions import BACKENDS, Opening, Runner
from pnseg_runtime.sessions.cache import writable
from pnseg_runtime.sessions.onnxruntime import CPU, runner, session_options

#: Providers that have to leave something to the CPU: shapes, which are a few numbers. The others take all or nothing.
SHAPES_ON_CPU = {"CUDAExecutionProvider"}


def problem(opening: Opening) -> str | None:
    """Why the provider cannot be started at all, None if it may."""
    backend = BACKENDS[opening.backend]
    if backend.provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {backend.provider}; run: {backend.install}"
    return None


CUDA_SETTINGS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
#: A provider that builds engines → how its options begin.
PREFIXES = {"TensorrtExecutionProvider": "trt", "NvTensorRTRTXExecutionProvider": "nv"}
#: A provider that is linked with libraries beside CUDA's → the package of pip's that loads them when it is imported.
LIBRARIES = {"TensorrtExecutionProvider": "tensorrt_libs"}
#: The most points of a prompt: itself and its negatives.
POINTS = 5


def provider_settings(provider: str, cache: Path | None, ranges: Mapping[str, str]) -> dict[str, str]:
    """A provider's options.

    Engines and timings are kept, so that only the first start is slow. They are built for all shapes that there can be;
    otherwise each shape beyond those that have been would build them anew, for minutes.

    Args:
        provider: its name.
        cache: where engines may be kept.
        ranges: from :func:`shape_ranges`.
    """
    if provider not in PREFIXES:
        return dict(CUDA_SETTINGS)
    prefix = PREFIXES[provider]
    settings = {f"{prefix}_profile_{end}_shapes": shapes for end, shapes in ranges.items()}
    if cache is None:
        return settings
    if prefix == "nv":
        return {**settings, "nv_runtime_cache_path": os.fspath(cache)}
    kept = {f"trt_{kind}_cache_enable": "1" for kind in ("engine", "timing")}
    return {**settings, **kept, **{f"trt_{kind}_cache_path": os.fspath(cache) for kind in ("engine", "timing")}}


def shape_ranges(graph: GraphName, inputs: Mapping[str, Sequence[int | str]], manifest: Manifest) -> dict[str, str]:
    """``min``, ``opt`` and ``max`` → the shapes of all inputs of a network, as ONNX Runtime reads them.

    Args:
        graph: which network.
        inputs: a tensor's name → its axes.
        manifest: the bundle's.
    """
    negatives = manifest.prompting.negatives
    side = (max(manifest.prompting.pad_multiple, COARSEST_STRIDE), min(1024, USUAL.side), USUAL.side)
    windows = (1, USUAL.windows, USUAL.windows)
    spans = {
        "batch": (1, 1, 1) if graph == "prompter" else windows,
        "height": side,
        "width": side,
        "prompts": (1, USUAL.prompts, USUAL.prompts),
        "points": (1, 1 + negatives, max(POINTS, 1 + negatives)),
    }
    return {
        end: ",".join(
            f"{name}:{'x'.join(str(spans[axis][place] if isinstance(axis, str) else axis) for axis in axes)}"
            for name, axes in inputs.items()
        )
        for place, end in enumerate(("min", "opt", "max"))
    }


def open_network(bundle: Bundle, graph: GraphName, opening: Opening) -> Runner:
    """One of a bundle's networks on the GPU.

    Raises:
        ProviderError: the provider does not start, or, being TensorRT's, would leave part of the network to the CPU.
        BundleError: the bundle has no such graph.
    """
    backend = BACKENDS[opening.backend]
    path = bundle.path(graph, opening.precision)
    options = session_options(opening.threads)
    if backend.provider not in SHAPES_ON_CPU:  # by itself ONNX Runtime logs a line and computes on the CPU
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    preload_libraries(backend.provider)
    ranges = shape_ranges(graph, bundle.graph(graph, opening.precision).inputs, bundle.manifest)
    settings = provider_settings(backend.provider, writable(bundle.folder) if opening.cache else None, ranges)
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=[(backend.provider, settings)], enable_fallback=0
        )
    except Exception as error:
        raise ProviderError(not_started(backend.name, one_line(error))) from error
    if (first := (session.get_providers() or [CPU])[0]) != backend.provider:
        raise ProviderError(not_started(backend.name, f"ONNX Runtime chose {first} instead"))
    return runner(session, path)


def preload_libraries(provider: str) -> None:
    """Load what a provider is linked with and pip has installed, which no loader looks for by itself."""
    if preload := getattr(onnxruntime, "preload_dlls", None):
        with redirect_stdout(StringIO()):  # it prints what it does not find; the provider's own error says it, too
            preload()
    if package := LIBRARIES.get(provider):
        with suppress(ImportError):  # they may be the system's
            import_module(package)


def not_started(backend: str, reason: str) -> str:
    """The sentence for a provider that was asked for and did not start."""
    return (
        f"{backend}: {BACKENDS[backend].provider} does not start ({reason}); run pnseg doctor to see what is missing."
    )
