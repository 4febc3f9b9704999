"""Which of a bundle's engines fit this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from typing import get_args

from pnseg_runtime.bundle import Bundle, EngineFile, GraphName
from pnseg_runtime.cuda.engines import Engines
from pnseg_runtime.cuda.flavours import FLAVOURS, Flavour
from pnseg_runtime.cuda.nvidia import architecture
from pnseg_runtime.cuda.tensorrt import TensorRTEngine
from pnseg_runtime.errors import BackendError
from pnseg_runtime.sessions import require_engines
from pnseg_runtime.sessions.cache import writable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A bundle's engines for a machine: all three networks, of one flavour and precision.

    Attributes:
        flavour: of the library that runs them.
        version: of that library.
        architecture: of the GPU.
        files: network → its file.
    """

    flavour: Flavour
    version: str
    architecture: str
    files: dict[str, EngineFile]

    def open(self, bundle: Bundle, graph: str) -> TensorRTEngine:
        """Load one of the networks.

        Raises:
            BackendError: the library cannot load the engine on this GPU.
        """
        entry = self.files[graph]
        place = writable(bundle.folder) if self.flavour.compiles else None
        compiled = place / f"{entry.sha256[:32]}.{self.architecture}.kernels" if place else None
        return TensorRTEngine(bundle.folder / entry.file, self.flavour, compiled)


def find_engines(bundle: Bundle, capability: tuple[int, int], precision: str | None = None) -> Fit:
    """The bundle's engines for a GPU, of the first flavour that is installed and has all three.

    Args:
        bundle: an opened bundle.
        capability: (major, minor) of the GPU.
        precision: of the graphs that the engines were built from; None for the manifest's
            ``engine_precision``.

    Raises:
        BundleError: the bundle has no engines.
        BackendError: none that fit this GPU and the installed libraries.
    """
    require_engines(bundle)
    engines, here = bundle.manifest.engines, architecture(capability)
    precision = precision or bundle.manifest.engine_precision
    reasons = []
    for flavour in FLAVOURS.values():
        try:
            version = import_module(flavour.module).__version__
        except ModuleNotFoundError:
            reasons.append(f"{flavour.module} is not installed ({flavour.install})")
            continue
        except (ImportError, OSError) as error:  # it is there, and a library of its own is not
            reasons.append(f"{flavour.module} does not import ({error})")
            continue
        own = [each for each in engines if (each.flavour, each.precision) == (flavour.name, precision)]
        parts = {
            name: fitting([each for each in own if each.graph == name], here, version) for name in get_args(GraphName)
        }
        if missing := [name for name, part in parts.items() if part is None]:
            reasons.append(f"no {precision} engine of {', '.join(missing)} for {here} and {flavour.module} {version}")
            continue
        log.info("engines: %s %s, %s, for %s", flavour.name, version, precision, here)
        return Fit(flavour, version, here, {name: part for name, part in parts.items() if part})
    others = sorted({each.precision for each in engines} - {precision})
    told = f"; those of {', '.join(others)} are asked for with --precision" if others else ""
    raise BackendError(
        f"{bundle.folder}: no engines of this bundle fit this machine ({'; '.join(reasons)}{told}); "
        "build them here with pnseg build."
    )


def fitting(candidates: list[EngineFile], architecture: str, version: str) -> EngineFile | None:
    """The first engine for a GPU and a version of the library that built it."""
    return next((each for each in candidates if architecture in each.architectures and each.version == version), None)


def open_engines(bundle: Bundle, capability: tuple[int, int], precision: str | None = None) -> Engines:
    """Load the engines that :func:`find_engines` finds.

    Raises:
        BundleError, BackendError: as there, or an engine does not load.
    """
    fit = find_engines(bundle, capability, precision)
    return Engines(**{name: fit.open(bundle, name) for name in get_args(GraphName)})
