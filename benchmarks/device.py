"""PromptNucSeg on the GPU alone: TensorRT engines and the runtime's kernels, nothing goes back until the nuclei do.

What a network gives cannot be replaced there, so the weights are random but for those that make
masks discs around their prompts (:mod:`benchmarks.planted`), and the background's logit is lowered
until the prompter finds the wanted number of nuclei. nano is the shipped bundle.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.planted import planted_pair
from benchmarks.promptnucseg import NANO, manifest_for
from benchmarks.runs import Engine
from benchmarks.sensitivity import sensitivity_for
from benchmarks.tiles import TYPICAL, Tile, make_tile
from pnseg_export.bundle import export_graphs
from pnseg_export.engines.build import BuildChoices, build_engines
from pnseg_export.engines.flavours import own_architecture
from pnseg_export.engines.targets import Target
from pnseg_export.folders import write_manifest
from pnseg_export.graphs.rewrites import GPU
from pnseg_export.precision.feeds import record
from pnseg_export.precision.float16 import halve_graphs
from pnseg_runtime.bundle import MANIFEST_NAME, Bundle
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import open_sessions
from pnseg_runtime.sessions.cache import FOLDER as CACHE

#: The twin of the runtime's pipeline on the GPU.
SEGMENTER = "pnseg_runtime.cuda.segmenter"


def device_bundle(size: str, folder: Path) -> Bundle:
    """A bundle in ``folder`` with graphs in half precision; one that is there already is taken as it is."""
    if not (folder / MANIFEST_NAME).is_file():
        if size == NANO:
            shutil.copytree(Bundle.open(NANO).folder, folder, ignore=shutil.ignore_patterns(CACHE))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            graphs = export_graphs(*planted_pair(size, make_tile(TYPICAL).image), folder, GPU)
            write_manifest(folder, manifest_for(size, graphs=graphs))
        gc.collect()
    bundle = Bundle.open(folder)
    if "float16" not in bundle.manifest.precisions:
        half, _ = halve_graphs(bundle, folder, record(bundle, [make_tile(TYPICAL).image]))
        variants = {**bundle.manifest.variants, "float16": half}
        write_manifest(folder, bundle.manifest.model_copy(update={"variants": variants}))
        bundle = Bundle.open(folder)
    return bundle


def with_engines(bundle: Bundle, flavour: str) -> Bundle:
    """The same bundle with engines of a flavour for this machine's GPU, and of no other.

    Raises:
        PnsegError: there is no GPU, the library is missing, or an engine is not what it should be.
    """
    if not any(engine.flavour == flavour for engine in bundle.manifest.engines):
        target = Target("rtx", own_architecture()) if flavour == "rtx" else Target("tensorrt")
        build_engines(bundle, [target], BuildChoices())
        bundle = Bundle.open(bundle.folder)
    own = [engine for engine in bundle.manifest.engines if engine.flavour == flavour]
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"engines": own}))


def tile_sensitivity(bundle: Bundle, tile: Tile) -> float:
    """With what sensitivity about the tile's number of nuclei is found, by the bundle's graphs on the CPU."""
    sessions = open_sessions(bundle, cache=False)

    def found(sensitivity: float) -> int:
        return len(Segmenter(bundle, Options(sensitivity=sensitivity), sessions=sessions).predict(tile.image))

    return sensitivity_for(found, tile.nuclei)


def device_predict(bundle: Bundle, engine: Engine) -> Callable[[Tile], Mapping[str, float]]:
    """A tile on the GPU, end to end; gives the seconds of each stage that the runtime tells.

    Raises:
        PnsegError: the bundle's engines do not start.
        ImportError: the GPU's libraries are not installed.
    """
    segmenter_class: Any = import_module(SEGMENTER).DeviceSegmenter
    segmenter_class(bundle, Options(), use_graphs=engine.graphs).close()  # what is missing shows now
    ready: dict[int, Any] = {}

    def predict(tile: Tile) -> Mapping[str, float]:
        if tile.nuclei not in ready:
            options = Options(sensitivity=tile_sensitivity(bundle, tile))
            ready[tile.nuclei] = segmenter_class(bundle, options, use_graphs=engine.graphs)
        found = ready[tile.nuclei].predict(tile.image)
        found.instance_map()
        return {stage: seconds for stage, seconds in found.timings.items() if stage != "total"}

    return predict
