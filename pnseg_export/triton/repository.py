"""A bundle → a folder that ``tritonserver --model-repository`` serves."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from pnseg_export.folders import new_folder, write_manifest
from pnseg_export.triton.config import ModelConfig, Tensor, network_tensors
from pnseg_runtime.bundle import MANIFEST_NAME, Bundle, EngineFile, GraphFile, GraphName
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.limits import Limits

VERSION = "1"  # of each model, as Triton counts versions

#: Most windows (or images of one size) that are put together into one call.
MOST_IMAGES = 8

#: What the pipeline gives out: the label map, and one row a nucleus.
OUTPUTS = (
    Tensor("labels", "TYPE_INT32", (-1, -1)),
    Tensor("points", "TYPE_FP32", (-1, 2)),
    Tensor("classes", "TYPE_INT64", (-1,)),
    Tensor("scores", "TYPE_FP32", (-1,)),
    Tensor("predicted_iou", "TYPE_FP32", (-1,)),
    Tensor("boxes", "TYPE_INT32", (-1, 4)),
)


def export_triton(
    bundle: Bundle,
    out: Path,
    backend: Literal["onnxruntime", "tensorrt"] = "onnxruntime",
    precision: str = "float32",
    overwrite: bool = False,
) -> list[str]:
    """Write the repository.

    Args:
        bundle: an opened bundle.
        out: folder to make.
        backend: of the networks.
        precision: of their graphs or engines.
        overwrite: replace a repository of one bundle that is there, or an empty folder.

    Returns:
        the models' names, the pipeline last.

    Raises:
        PnsegError: ``out`` exists and is not replaced, or the bundle lacks graphs or engines of this kind.
    """
    name = "".join(letter if letter.isalnum() else "_" for letter in bundle.manifest.model)
    names = _models(name)
    with new_folder(out, overwrite, "model repository of one bundle", is_repository) as folder:
        for network, model in names.items():
            _network(bundle, network, folder / model, backend, precision)
        _pipeline(bundle, folder / name, names, precision, backend)
    return [*names.values(), name]


def is_repository(folder: Path) -> bool:
    """Whether a folder holds the four models of a bundle, and no others."""
    models = {path.name for path in folder.iterdir()}
    pipelines = [path.parts[-3] for path in folder.glob(f"*/{VERSION}/{MANIFEST_NAME}")]
    return len(pipelines) == 1 and models == {pipelines[0], *_models(pipelines[0]).values()}


def _models(name: str) -> dict[GraphName, str]:
    return {network: f"{name}_{network}" for network in get_args(GraphName)}


def _network(bundle: Bundle, network: GraphName, folder: Path, backend: str, precision: str) -> None:
    place = folder / VERSION
    place.mkdir(parents=True)
    entry: GraphFile | EngineFile = bundle.graph(network, precision)
    most, profiles = MOST_IMAGES, 0
    if backend == "tensorrt":
        entry = _engine(bundle, network, precision)
        most = max(profile["image"].largest[0] for profile in entry.profiles) if "image" in entry.inputs else 0
        profiles = len(entry.profiles)
    shutil.copy(bundle.folder / entry.file, place / ("model.plan" if backend == "tensorrt" else "model.onnx"))
    for data in entry.data if isinstance(entry, GraphFile) else ():
        shutil.copy(bundle.folder / data.file, place / data.file)
    # The decoder has two axes that grow, windows and prompts, of which Triton could join but one.
    batched = network != "decoder" and most > 1
    config = ModelConfig(
        name=folder.name,
        backend=backend,
        inputs=network_tensors(entry.inputs, batched),
        outputs=network_tensors(entry.outputs, batched),
        max_batch=most if batched else 0,
        preferred=(most,) if batched else (),
        kind="KIND_GPU" if backend == "tensorrt" else "KIND_AUTO",
        profiles=profiles,
    )
    (folder / "config.pbtxt").write_text(config.text(), encoding="utf-8")


def _engine(bundle: Bundle, network: str, precision: str) -> EngineFile:
    fitting = [
        engine
        for engine in bundle.manifest.engines
        if engine.graph == network and engine.precision == precision and engine.flavour == "tensorrt"
    ]
    if not fitting:
        raise PnsegError(
            f"{bundle.folder}: has no {precision} engine of its {network} for classic TensorRT, which is the one that "
            f"Triton runs; build it on the server's GPU: "
            f"pnseg build {bundle.folder} --target tensorrt --precision {precision}"
        )
    return fitting[-1]


def _limits(bundle: Bundle, precision: str, backend: str) -> dict[str, str]:
    # What the pipeline hands to its networks at most: engines take no more, graphs anything.
    if backend != "tensorrt":
        return {}
    engines = {network: _engine(bundle, network, precision) for network in get_args(GraphName)}
    largest = {
        network: [{name: span.largest for name, span in profile.items()} for profile in engine.profiles]
        for network, engine in engines.items()
    }
    return {name: str(value) for name, value in asdict(Limits.of(largest)).items()}


def _pipeline(bundle: Bundle, folder: Path, names: dict[GraphName, str], precision: str, backend: str) -> None:
    place = folder / VERSION
    place.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("model.py"), place / "model.py")
    graphs = {network: bundle.graph(network, precision) for network in names}
    manifest = bundle.manifest.model_copy(update={"graphs": graphs, "variants": {}, "engines": []})
    write_manifest(place, manifest)
    config = ModelConfig(
        name=folder.name,
        backend="python",
        inputs=(Tensor("image", "TYPE_UINT8", (-1, -1, 3)),),
        outputs=OUTPUTS,
        kind="KIND_CPU",
        count=2,  # while one waits for the networks, the other prepares or paints
        parameters={str(network): model for network, model in names.items()} | _limits(bundle, precision, backend),
    )
    (folder / "config.pbtxt").write_text(config.text(), encoding="utf-8")
