"""Engines for a bundle: each is built in a process of its own, checked, and then named by the manifest."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import onnx
from filelock import FileLock

from pnseg_export.engines.job import Built, EngineJob
from pnseg_export.engines.profiles import Buckets, profiles
from pnseg_export.engines.targets import Target
from pnseg_export.files import element_types, read_graph
from pnseg_export.folders import renewed_manifest
from pnseg_runtime.bundle import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Bundle,
    BundleFile,
    EngineFile,
    GraphName,
    Manifest,
    Precision,
    file_entry,
    read_manifest,
)
from pnseg_runtime.errors import BackendError, PnsegError

#: Folder of a bundle's engines.
ENGINES = "engines"
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class BuildChoices:
    """How engines are built.

    Attributes:
        precision: of the graphs they are built from.
        graphs: which networks.
        buckets: shapes.
        workspace: most scratch memory of a layer, bytes.
        level: the builder's effort, 0 to 5.
    """

    precision: Precision = "float16"
    graphs: tuple[GraphName, ...] = get_args(GraphName)
    buckets: Buckets = field(default_factory=Buckets)
    workspace: int | None = None
    level: int | None = None


def build_engines(
    bundle: Bundle,
    targets: Sequence[Target],
    choices: BuildChoices,
    report: Callable[[EngineFile, Built], None] = lambda *_: None,
) -> Manifest:
    """Build engines into the bundle's folder, below ``engines``; each is in the manifest as soon as it is built.

    Raises:
        PnsegError: a graph that the bundle lacks, a library that is not there, a build that fails or crashes.
    """
    for target in targets:
        for graph in choices.graphs:
            report(*build_engine(bundle, graph, target, choices))
    return read_manifest(bundle.folder / MANIFEST_NAME)


def build_engine(bundle: Bundle, graph: GraphName, target: Target, choices: BuildChoices) -> tuple[EngineFile, Built]:
    """Build one engine in a process of its own, put it into the bundle's folder and name it in the manifest."""
    entry, prompting = bundle.graph(graph, choices.precision), bundle.manifest.prompting
    if entry.precision != choices.precision:
        raise PnsegError(f"{bundle.folder}: its {choices.precision} {graph} is a {entry.precision} graph.")
    model = read_graph(bundle.path(graph, choices.precision), weights=False)
    half, quantised = expected_types(model)
    with tempfile.TemporaryDirectory(dir=bundle.folder, prefix=".engine-") as scratch:
        folder = Path(scratch)
        job = EngineJob(
            flavour=target.flavour,
            architecture=target.architecture,
            graph=graph,
            precision=choices.precision,
            model=str(bundle.path(graph, choices.precision)),
            engine=str(folder / "engine"),
            log=str(folder / "log"),
            profiles=profiles(
                graph, entry.inputs, choices.buckets, bundle.manifest.masking.window, prompting.pad_multiple
            ),
            half_products=half,
            quantised=quantised,
            workspace=choices.workspace,
            level=choices.level,
        )
        built = run(job, folder, bundle.folder)
        place = Path(ENGINES, f"{target.flavour}-{built.architecture}-{built.version}")
        path = place / f"{graph}.{choices.precision}.engine"
        engine = EngineFile(
            **_at(path, folder / "engine").model_dump(),
            flavour=target.flavour,
            version=built.version,
            architectures=[built.architecture],
            precision=choices.precision,
            graph=graph,
            inputs=entry.inputs,
            outputs=entry.outputs,
            profiles=job.profiles,
            census=built.census,
            layers=built.layers,
            attention=built.attention,
            fused_attention=built.fused_attention,
            kernels=built.kernels,
            seconds=built.seconds,
            log=_at(path.with_suffix(".log"), folder / "log"),
        )
        _put(bundle.folder, engine, folder)
    return engine, built


def _at(path: Path, scratch: Path) -> BundleFile:
    # The entry of a file that will be at a place of the bundle.
    return file_entry(scratch, scratch.parent).model_copy(update={"file": path.as_posix()})


def _put(bundle: Path, engine: EngineFile, folder: Path) -> None:
    # Another build of the same bundle may have named its own meanwhile, so the manifest is read again. The files come
    # right before it, since a bundle that does not have what its manifest names is refused.
    (bundle / engine.file).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(bundle / ENGINES / ".lock"):
        manifest = read_manifest(bundle / MANIFEST_NAME)
        others = [other for other in manifest.engines if other.file != engine.file]
        changes = {"format_version": FORMAT_VERSION, "engines": [*others, engine]}
        with renewed_manifest(bundle, manifest.model_copy(update=changes)):
            (folder / "engine").replace(bundle / engine.file)
            (folder / "log").replace(bundle / engine.log.file)


def run(job: EngineJob, folder: Path, logs: Path) -> Built:
    """Run a job in a process of its own.

    Args:
        job: what to build.
        folder: for what goes to and fro.
        logs: where the log of a build that failed is kept.

    Raises:
        BackendError: the build failed, or its process died.
    """
    (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "pnseg_export.engines.child", str(folder / "job.json"), str(folder / "built.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode == 0:
        built = Built.model_validate_json((folder / "built.json").read_text(encoding="utf-8"))
        if not built.error:
            return built
        problem = built.error.replace(job.log, str(_kept_log(job, logs)))
        raise BackendError(problem)
    how = _death(done.returncode, done.stderr)
    raise BackendError(
        f"{job.model}: the builder of {job.flavour} {job.architecture} {how}; its log is {_kept_log(job, logs)}."
    )


def _kept_log(job: EngineJob, logs: Path) -> Path:
    kept = logs / f"{job.graph}.{job.precision}.failed.log"
    if Path(job.log).exists():
        Path(job.log).replace(kept)
    return kept


def _death(code: int, errors: str) -> str:
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return f"ended with exit code {code} ({last})"


def expected_types(model: onnx.ModelProto) -> tuple[int, int]:
    """Half-precision products and quantised tensors of a graph."""
    kinds, half = element_types(model), onnx.TensorProto.FLOAT16
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    return (
        sum(kinds.get(node.output[0]) == half for node in products),
        sum(node.op_type == "QuantizeLinear" for node in model.graph.node),
    )
