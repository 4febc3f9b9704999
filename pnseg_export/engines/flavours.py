"""Classic TensorRT and TensorRT for RTX: one API but for what stands here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pnseg_export.engines.targets import Target
from pnseg_runtime.cuda.flavours import FLAVOURS
from pnseg_runtime.cuda.nvidia import find_driver
from pnseg_runtime.errors import BackendError

OLDEST_CLASSIC = 11


def load(flavour: str) -> Any:
    """The library's module, called ``trt`` by its users.

    Raises:
        BackendError: it is not installed, or is TensorRT 10, whose precision is a flag of the builder.
    """
    library = FLAVOURS[flavour]
    try:
        trt = import_module(library.module)
    except ImportError as error:
        raise BackendError(f"{library.module} does not import ({error}); run: {library.install}") from error
    if flavour == "tensorrt" and int(trt.__version__.partition(".")[0]) < OLDEST_CLASSIC:
        raise BackendError(f"TensorRT {trt.__version__} is too old; install TensorRT {OLDEST_CLASSIC} or newer.")
    return trt


def aim(trt: Any, config: Any, target: Target) -> str:
    """Set the GPU that ``config`` builds for, and name it.

    Raises:
        BackendError: classic TensorRT without a GPU.
    """
    if target.flavour == "rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.architecture.upper()), 0)
        return target.architecture
    return own_architecture()


def allow_capture(trt: Any, config: Any) -> None:
    """Let engines be captured into CUDA graphs: they then take no memory while they run, which a capture forbids.

    TensorRT for RTX does so where it is asked to, from 1.2 on; classic TensorRT always. All of it stays on the stream
    that is captured: of streams of its own TensorRT does not say whether they block the legacy one.
    """
    config.max_aux_streams = 0
    flag = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if flag is not None:
        config.set_flag(flag)


def own_architecture() -> str:
    """The architecture of this machine's first GPU, e.g. ``sm86``.

    Raises:
        BackendError: there is none.
    """
    driver = find_driver()
    if driver.problem:
        raise BackendError(
            f"TensorRT builds for the GPU of its machine, but {driver.problem}; "
            "build on a machine that has one, or choose a target like rtx:sm86, which needs none."
        )
    return driver.gpus[0].architecture
