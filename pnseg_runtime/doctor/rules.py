"""What the facts mean: one small rule for each way in which deployments fail, each with the sentence and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pnseg_runtime.bundle import EngineFile, Manifest
from pnseg_runtime.cuda.flavours import FLAVOURS
from pnseg_runtime.cuda.nvidia import DRIVER_ERRORS, OLD_DRIVER, RTX_ARCHITECTURES
from pnseg_runtime.doctor.facts import TENSORRT, Facts
from pnseg_runtime.doctor.probe import Attempt
from pnseg_runtime.sessions import BACKENDS, CUDA, GPU_INSTALL

Level = Literal["problem", "hint"]

#: Oldest GPU that the kernels and engines are built for: Turing.
OLDEST_GPU = (7, 5)
#: CUDA → oldest driver for Linux that serves it.
DRIVERS = {12: "525.60", 13: "580.65"}
#: The CUDA that pnseg's own kernels are built with.
KERNELS_CUDA = 13
#: The backend that is ONNX Runtime's TensorRT provider.
ON_TENSORRT = "onnxruntime-tensorrt"


@dataclass(frozen=True)
class Finding:
    """Something to know.

    Attributes:
        level: ``problem``: something that is there cannot work; ``hint``: something could be better.
        says: what it is, one sentence.
        remedy: the command or step that helps.
    """

    level: Level
    says: str
    remedy: str


@dataclass(frozen=True)
class Case:
    """What the rules look at."""

    facts: Facts
    manifest: Manifest | None = None
    attempts: Sequence[Attempt] = ()


Rule = Callable[[Case], Iterator[Finding]]


def findings(case: Case) -> list[Finding]:
    """All that the rules have to say, problems first."""
    found = [finding for rule in RULES for finding in rule(case)]
    return sorted(found, key=lambda finding: finding.level != "problem")


def two_onnxruntimes(case: Case) -> Iterator[Finding]:
    """They share a folder, and the one installed last overwrites parts of the other."""
    if {"onnxruntime", "onnxruntime-gpu"} <= set(case.facts.packages):
        yield Finding(
            "problem",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files.",
            f"{GPU_INSTALL}  (or onnxruntime, on a machine without a GPU)",
        )


def driver_does_not_start(case: Case) -> Iterator[Finding]:
    """The library is there and answers with an error."""
    driver = case.facts.driver
    if driver.error:
        reason = DRIVER_ERRORS.get(driver.error, "unknown error")
        remedy = "restart the machine" if driver.error == 803 else "nvidia-smi  (shows what the driver sees)"
        if driver.error in {100, 101}:
            remedy = "give the container its GPU: docker run --gpus all …"
        yield Finding("problem", f"The NVIDIA driver does not start: error {driver.error}, {reason}.", remedy)


def driver_without_library(case: Case) -> Iterator[Finding]:
    """The kernel's part is there and the library is not: a container without the driver mounted."""
    driver = case.facts.driver
    if driver.version and driver.cuda is None:
        yield Finding(
            "problem",
            f"The machine has the NVIDIA driver {driver.version}, but libcuda.so.1 is not found from here.",
            "run the container with the NVIDIA Container Toolkit: docker run --gpus all …",
        )


def driver_too_old(case: Case) -> Iterator[Finding]:
    """Packages are built for a CUDA that the driver does not serve."""
    served = case.facts.driver.cuda
    if served is None:
        return
    driver = f"The NVIDIA driver {case.facts.driver.version or '(of unknown version)'}"
    serves = f"{driver} serves CUDA up to {served[0]}.{served[1]}, but"
    for package, cuda in case.facts.cuda.items():
        if served[0] < cuda:
            yield Finding(
                "problem",
                f"{serves} {package} {case.facts.packages[package]} needs CUDA {cuda}.",
                f"install driver {DRIVERS[cuda]} or newer, or a {package} that is built for CUDA {served[0]}",
            )
    if served[0] < KERNELS_CUDA and by_flavour(case.manifest) and case.facts.driver.gpus:
        yield Finding(
            "problem",
            f"{serves} the kernels of --backend {CUDA} need CUDA {KERNELS_CUDA}.",
            f"install driver {DRIVERS[KERNELS_CUDA]} or newer, or run the engines with --backend tensorrt",
        )


def gpu_too_old(case: Case) -> Iterator[Finding]:
    """Older than what anything here is built for."""
    for gpu in case.facts.driver.gpus:
        if gpu.capability < OLDEST_GPU:
            yield Finding(
                "problem",
                f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}; "
                f"kernels and engines need at least {OLDEST_GPU[0]}.{OLDEST_GPU[1]}.",
                "predict on the CPU: --backend openvino or --backend onnxruntime",
            )


def cudnn_missing(case: Case) -> Iterator[Finding]:
    """ONNX Runtime's CUDA provider loads it when it starts."""
    if "onnxruntime-gpu" in case.facts.packages and not case.facts.libraries.get("libcudnn.so.9", False):
        yield Finding(
            "problem" if case.facts.driver.gpus else "hint",
            "onnxruntime-gpu is installed, but cuDNN 9 (libcudnn.so.9) is not found; its CUDA provider cannot start.",
            'pip install "onnxruntime-gpu[cuda,cudnn]"',
        )


def provider_missing(case: Case) -> Iterator[Finding]:
    """There is a GPU, and nothing that uses it."""
    gpus, packages = case.facts.driver.gpus, case.facts.packages
    users = {"onnxruntime-gpu", *(name for flavour in FLAVOURS.values() for name in flavour.packages)}
    if gpus and not users & set(packages):
        yield Finding(
            "hint",
            f"{gpus[0].name} is here, but no package that runs networks on it.",
            GPU_INSTALL,
        )


def provider_does_not_start(case: Case) -> Iterator[Finding]:
    """A GPU provider that is installed was tried and did not start."""
    for attempt in not_started(case):
        if not lacks_tensorrt(attempt, case.facts):
            yield Finding("problem", attempt.error, "see the other findings; then: pnseg doctor")


def tensorrt_missing(case: Case) -> Iterator[Finding]:
    """onnxruntime-gpu has a provider that is linked with TensorRT, which it does not bring: it is sound without."""
    if any(lacks_tensorrt(attempt, case.facts) for attempt in not_started(case)):
        cuda = case.facts.cuda.get("onnxruntime-gpu", KERNELS_CUDA)
        yield Finding(
            "hint",
            f"--backend {ON_TENSORRT} needs TensorRT 10 ({TENSORRT}), which is not found.",
            f'pip install "tensorrt-cu{cuda}<11"  (not beside TensorRT 11, which runs engines: it would replace it)',
        )


def cpu_backend_broken(case: Case) -> Iterator[Finding]:
    """The default itself does not work."""
    for attempt in case.attempts:
        if attempt.backend == "onnxruntime" and attempt.precision == "float32" and attempt.error:
            yield Finding(
                "problem",
                f"ONNX Runtime does not work on the CPU: {attempt.error}",
                "pip install --force-reinstall onnxruntime",
            )


def engines_do_not_fit(case: Case) -> Iterator[Finding]:
    """Engines run on the architecture and with the version that they were built for, and on no other."""
    reasons = {
        flavour: [misfit(engine, case.facts) for engine in engines]
        for flavour, engines in by_flavour(case.manifest).items()
    }
    if not all(reason for flavour in reasons.values() for reason in flavour):
        return
    for flavour, told in reasons.items():
        yield Finding(
            "problem" if case.facts.driver.gpus else "hint",
            f"None of the bundle's {len(told)} {flavour} engines fits: {told[0]}.",
            f"pnseg build BUNDLE --target {target(flavour, case.facts)}",
        )


def engines_not_built(case: Case) -> Iterator[Finding]:
    """TensorRT is here, and nothing for it to run."""
    gpus, facts = case.facts.driver.gpus, case.facts
    libraries = [flavour for flavour in ("rtx", "tensorrt") if library_version(flavour, facts) is not None]
    if gpus and libraries and case.manifest is not None and not case.manifest.engines:
        yield Finding(
            "hint",
            "The bundle has no engines, which are what runs without ONNX Runtime on this GPU.",
            f"pnseg build BUNDLE --target {target(libraries[0], facts)}",
        )


def engines_do_not_run(case: Case) -> Iterator[Finding]:
    """They fit by their names, and were tried, and do not run."""
    fits = case.manifest is not None and any(misfit(engine, case.facts) is None for engine in case.manifest.engines)
    for attempt in case.attempts:
        engines = attempt.backend == CUDA or (attempt.backend in BACKENDS and BACKENDS[attempt.backend].engines)
        if fits and engines and attempt.error and "pycuda" in case.facts.packages:
            said = f"{attempt.backend}: {attempt.error.removeprefix(f'{attempt.backend}: ')}"
            remedy = f"install driver {DRIVERS[KERNELS_CUDA]} or newer" if OLD_DRIVER in said else "pnseg build BUNDLE"
            yield Finding("problem", f"Engines fit this GPU, but do not run: {said}", remedy)


def pycuda_missing(case: Case) -> Iterator[Finding]:
    """Engines run through it."""
    if case.facts.driver.gpus and by_flavour(case.manifest) and "pycuda" not in case.facts.packages:
        yield Finding(
            "problem", "The bundle has engines, but PyCUDA, which runs them, is not installed.", "pip install pycuda"
        )


def faster_on_this_cpu(case: Case) -> Iterator[Finding]:
    """OpenVINO uses instructions that this CPU has."""
    fast = {"avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"} & set(case.facts.flags)
    if fast and not case.facts.driver.gpus and "openvino" not in case.facts.packages:
        yield Finding(
            "hint",
            f"This CPU has {', '.join(sorted(fast))}, which OpenVINO makes the most of.",
            'pip install "pnseg[openvino]"',
        )


def slow_cpu(case: Case) -> Iterator[Finding]:
    """Older than AVX2."""
    if case.facts.flags and "avx2" not in case.facts.flags:
        yield Finding("hint", "This CPU has no AVX2; networks run several times slower.", "use a newer machine")


def fewer_cores_than_threads(case: Case) -> Iterator[Finding]:
    """A container may use a part of a core besides whole ones, and threads are one more than these by default."""
    quota, cores = case.facts.quota, case.facts.cores
    if quota is not None and quota < cores and quota % 1:
        whole = max(1, int(quota))
        yield Finding(
            "hint",
            f"This container sees {cores} cores but may use {quota:g} at a time; more threads than that wait for each "
            "other.",
            f"pnseg predict --threads {whole} …",
        )


RULES: tuple[Rule, ...] = (
    two_onnxruntimes,
    driver_does_not_start,
    driver_without_library,
    driver_too_old,
    gpu_too_old,
    cudnn_missing,
    provider_missing,
    provider_does_not_start,
    tensorrt_missing,
    cpu_backend_broken,
    engines_do_not_fit,
    engines_not_built,
    engines_do_not_run,
    pycuda_missing,
    faster_on_this_cpu,
    slow_cpu,
    fewer_cores_than_threads,
)


def not_started(case: Case) -> Iterator[Attempt]:
    """Attempts of GPU providers that are installed, have a GPU, and did not start."""
    if "onnxruntime-gpu" in case.facts.packages and case.facts.driver.gpus:
        yield from (attempt for attempt in case.attempts if attempt.not_started)


def lacks_tensorrt(attempt: Attempt, facts: Facts) -> bool:
    """Whether what was tried needs TensorRT, and it is not there."""
    return attempt.backend == ON_TENSORRT and not facts.libraries.get(TENSORRT, False)


def by_flavour(manifest: Manifest | None) -> dict[str, list[EngineFile]]:
    """The bundle's engines of each flavour."""
    found: dict[str, list[EngineFile]] = {}
    for engine in manifest.engines if manifest else ():
        found.setdefault(engine.flavour, []).append(engine)
    return found


def target(flavour: str, facts: Facts) -> str:
    """What ``pnseg build`` is to build for the first GPU here, of a flavour if that is built for it."""
    architecture = facts.driver.gpus[0].architecture if facts.driver.gpus else RTX_ARCHITECTURES[1]
    return f"rtx:{architecture}" if flavour == "rtx" and architecture in RTX_ARCHITECTURES else "tensorrt"


def library_version(flavour: str, facts: Facts) -> str | None:
    """Version of the library that runs a flavour of engines."""
    return next((facts.packages[name] for name in FLAVOURS[flavour].packages if name in facts.packages), None)


def misfit(engine: EngineFile, facts: Facts) -> str | None:
    """Why an engine does not run here, None if it should."""
    flavour = FLAVOURS[engine.flavour]
    if (found := library_version(engine.flavour, facts)) is None:
        return f"{flavour.label} is not installed ({flavour.install})"
    if found != engine.version:
        return f"they were built by {flavour.label} {engine.version}, installed is {found}"
    if not facts.driver.gpus:
        return f"they are for {', '.join(engine.architectures)}, and there is no GPU here"
    first, *others = facts.driver.gpus
    if first.architecture in engine.architectures:
        return None
    told = f"they are for {', '.join(engine.architectures)}, but {first.name} is {first.architecture}"
    for index, gpu in enumerate(others, start=1):
        if gpu.architecture in engine.architectures:
            return f"{told}; {gpu.name} is {gpu.architecture}: CUDA_VISIBLE_DEVICES={index} takes it"
    return told
