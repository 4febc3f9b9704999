"""The process that builds one engine: ``python -m pnseg_export.engines.child JOB RESULT``.

A graph may crash the builder, and a crash takes its process with it; so nothing else is done here.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pnseg_export.engines.flavours import aim, allow_capture, load
from pnseg_export.engines.job import Built, EngineJob
from pnseg_export.engines.targets import Target
from pnseg_runtime.errors import BackendError, PnsegError

FUSED = re.compile(r"Found (.+) to be part of self-attention pattern")
#: The builder's log of what an engine executes: parts of the network, those of each profile in turn, and their steps.
EXECUTED = re.compile(r"^Name: .+?_myl(\d+)_\d+, LayerType: (\w+),", re.MULTILINE)
#: Of that, what starts no kernel.
NO_KERNEL = {"signal", "wait", "shape_call"}

FOR_GPU = "make the graph again with pnseg quantise --int8-for gpu"


def build(job: EngineJob) -> Built:
    """Build the engine of ``job`` and write it.

    Raises:
        PnsegError: the library is not there, does not take the graph, or builds something else than was asked for.
    """
    trt = load(job.flavour)
    with Path(job.log).open("w", encoding="utf-8") as log:
        builder = trt.Builder(_logger(trt, log))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse(trt, network, job, log)
        config = builder.create_builder_config()
        # With TF32, float32 products would have the 10 bits of half precision where they were kept for their 23.
        config.clear_flag(trt.BuilderFlag.TF32)
        allow_capture(trt, config)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if job.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
        if job.level is not None:
            config.builder_optimization_level = job.level
        architecture = aim(trt, config, Target(job.flavour, job.architecture))  # type: ignore[arg-type]
        for profile in job.profiles:
            add_profile(builder, config, profile)
        layers, census, half, quantised = count(trt, network)
        check(job, half, quantised)
        start = time.perf_counter()
        plan = builder.build_serialized_network(network, config)
        seconds = time.perf_counter() - start
    if plan is None:
        raise BackendError(f"{job.model}: {job.flavour} builds no engine of it; its log says why: {job.log}")
    Path(job.engine).write_bytes(plan)
    told = Path(job.log).read_text(encoding="utf-8")
    found = set(FUSED.findall(told))
    softmaxes = names_of(network, trt.LayerType.SOFTMAX)
    return Built(
        version=trt.__version__,
        architecture=architecture,
        layers=layers,
        census=census,
        attention=len(softmaxes),
        fused_attention=len(softmaxes & found) if found or not softmaxes else None,
        kernels=kernels(told, len(job.profiles)),
        seconds=round(seconds, 2),
        memory=peak_memory(),
    )


def peak_memory() -> int:
    """The most memory that this process has had, bytes; 0 where the system does not say.

    ``getrusage`` would not do: behind a fork it starts from the parent's.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _logger(trt: Any, log: Any) -> Any:
    class Logger(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            log.write(f"{severity.name} {message}\n")
            if severity <= trt.ILogger.Severity.WARNING:
                log.flush()  # what a crash must not take with it

    return Logger()


def parse(trt: Any, network: Any, job: EngineJob, log: Any) -> None:
    """Read the graph into ``network``.

    Raises:
        BackendError: with the first node that the parser does not take.
    """
    parser = trt.OnnxParser(network, _logger(trt, log))
    if parser.parse_from_file(job.model):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    for error in errors:
        log.write(f"PARSER {error.node_name()} ({error.node_operator()}): {error.desc()}\n")
    first = errors[0]
    remedy = f"; {FOR_GPU}" if job.precision == "int8" else ""
    raise BackendError(
        f"{job.model}: {job.flavour} does not take node {first.node_name()} ({first.node_operator()}): "
        f"{first.desc()}{remedy}"
    )


def add_profile(builder: Any, config: Any, profile: dict[str, Any]) -> None:
    """Add an optimisation profile.

    Raises:
        BackendError: it does not fit the network.
    """
    entry = builder.create_optimization_profile()
    for name, shapes in profile.items():
        entry.set_shape(name, tuple(shapes.smallest), tuple(shapes.tuned), tuple(shapes.largest))
    if config.add_optimization_profile(entry) < 0:
        raise BackendError(f"the profile {profile} does not fit the network; export the bundle again.")


def count(trt: Any, network: Any) -> tuple[dict[str, int], dict[str, int], int, int]:
    """Layers by kind, tensors by type, products with half-precision results, and quantising layers."""
    layers: Counter[str] = Counter()
    census: Counter[str] = Counter()
    products = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}
    half = quantised = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kinds = [layer.get_output(place).dtype for place in range(layer.num_outputs)]
        layers[layer.type.name] += 1
        census.update(kind.name for kind in kinds)
        half += layer.type in products and kinds[0] == trt.DataType.HALF
        quantised += layer.type == trt.LayerType.QUANTIZE
    return dict(sorted(layers.items())), dict(sorted(census.items())), half, quantised


def names_of(network: Any, kind: Any) -> set[str]:
    """Names of the layers of a kind."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return {layer.name for layer in layers if layer.type == kind}


def kernels(log: str, profiles: int) -> list[int]:
    """Kernels that a call starts, for each profile; empty if the builder's log does not say."""
    steps = [(int(part), kind not in NO_KERNEL) for part, kind in EXECUTED.findall(log)]
    parts = sorted({part for part, _ in steps})
    if not parts or len(parts) % profiles:
        return []
    each = len(parts) // profiles
    count = Counter(parts.index(part) // each for part, starts in steps if starts)
    return [count[profile] for profile in range(profiles)]


def check(job: EngineJob, half: int, quantised: int) -> None:
    """Refuse a network whose types are not those of its graph.

    Raises:
        BackendError: fewer half-precision products, or fewer quantisations, than the graph has, or none at all.
    """
    if job.precision == "float16" and (half < job.half_products or not half):
        raise BackendError(
            f"{job.model}: a float16 engine was asked for, but {half} of its products are in half precision "
            f"and {job.half_products} of the graph's; make the graph again with pnseg quantise."
        )
    if job.precision == "int8" and (quantised < job.quantised or not quantised):
        raise BackendError(
            f"{job.model}: an int8 engine was asked for, but the network quantises {quantised} tensors and its "
            f"graph {job.quantised}; {FOR_GPU}."
        )


def main(job: str, result: str) -> None:
    """Build, and write what came of it to ``result``."""
    try:
        built = build(EngineJob.model_validate_json(Path(job).read_text(encoding="utf-8")))
    except PnsegError as error:
        built = Built(error=str(error))
    Path(result).write_text(built.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
