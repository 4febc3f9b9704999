"""What Table 5 measures: a method by an engine, ready to run from pixels to instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.counts import Counts, count
from benchmarks.device import device_bundle, device_predict, with_engines
from benchmarks.peers import PEERS, Arrays, Peer, open_peer
from benchmarks.promptnucseg import (
    NANO,
    copied_bundle,
    exported_macs,
    manifest_for,
    own_manifest,
    own_pair,
    passes,
    plain_counts,
    random_bundle,
    with_int8,
)
from benchmarks.runs import EAGER, ENGINES, ORT, Engine
from benchmarks.staged import staged
from benchmarks.tiles import SIDE, TYPICAL, Tile
from pnseg_export.graphs.axes import Tensors
from pnseg_export.onnx import export_graph
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.options import Options
from pnseg_runtime.pixels import normalise
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions, open_sessions
from pnseg_runtime.sessions.onnxruntime import open_session
from pnseg_train.inference import torch_sessions

#: PromptNucSeg's sizes by the method's name.
SIZES = {f"PromptNucSeg-{size}": size for size in ("B", "L", "H", "nano")}
METHODS = (*PEERS, *SIZES)
#: Stage → seconds.
Stages = Mapping[str, float]
Predict = Callable[[Tile], Stages]


@dataclass
class Subject:
    """A method by an engine.

    Attributes:
        predict: a tile, end to end; gives the seconds of each stage.
        finish: a tile, only what depends on the number of nuclei; None where all of it may.
        networks: images of a batch → the networks alone on so many, for throughput.
        counts: of the method's networks as published; None where nothing is published.
        exported_macs: of the graphs that run, each nucleus decoded once, where they are not the published network.
        run_macs: of all that runs for the tile that is timed.
        origin, difference: see :class:`benchmarks.peers.Peer`.
    """

    method: str
    run: str
    predict: Predict
    networks: Callable[[int], Callable[[], object]] | None = None
    finish: Callable[[Tile], object] | None = None
    counts: Counts | None = None
    exported_macs: int | None = None
    run_macs: int | None = None
    origin: str = ""
    difference: str = ""


@dataclass(frozen=True)
class Missing:
    """A method by an engine that does not run here, and why not."""

    method: str
    run: str
    why: str


Opened = list[Subject | Missing]


class PeerGraph(nn.Module):
    """A rival's network with what exports it: named tensors in order."""

    def __init__(self, network: nn.Module, peer: Peer) -> None:
        super().__init__()
        self.network, self.names = network, peer.outputs
        self.inputs: Tensors = {"image": ["batch", 3, SIDE, SIDE]}
        with torch.no_grad():
            raw = network(torch.zeros(1, 3, SIDE, SIDE))
        self.outputs: Tensors = {name: ["batch", *raw[name].shape[1:]] for name in peer.outputs}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        raw = self.network(image)
        return tuple(raw[name] for name in self.names)


def open_rival(method: str, runs: tuple[str, ...], folder: Path, device: str, threads: int | None) -> Opened:
    """A rival in PyTorch, and its exported network in ONNX Runtime; the rest of both is the same."""
    peer = open_peer(method)
    torch.manual_seed(0)
    network = peer.build().eval()
    with torch.device("meta"):
        shape, image = peer.build().eval(), torch.empty(1, 3, SIDE, SIDE)
    counts = count(shape, lambda: shape(image))
    made = {"counts": counts, "run_macs": counts.macs, "origin": peer.origin, "difference": peer.difference}
    subjects: Opened = []
    if ORT in runs:
        path = folder / f"{method}.onnx"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{method}.part.onnx")  # so that one that is interrupted is not taken for a graph
            export_graph(PeerGraph(network, peer), (torch.rand(2, 3, SIDE, SIDE),), draft)
            draft.rename(path)
        session = open_session(path, threads)

        def exported(images: Tensor) -> Mapping[str, Tensor]:
            return {name: torch.from_numpy(array) for name, array in session({"image": images.numpy()}).items()}

        subjects.append(_rival(method, ORT, peer, exported, "cpu", made))
    if EAGER in runs:
        subjects.append(_rival(method, EAGER, peer, network.to(device), device, made))
    return subjects


def _rival(
    method: str, run: str, peer: Peer, network: Callable[[Tensor], Mapping[str, Tensor]], device: str, made: Any
) -> Subject:
    perfect: dict[int, Any] = {}

    def made_for(tile: Tile) -> Any:
        if tile.nuclei not in perfect:
            perfect[tile.nuclei] = peer.place(peer.maps(tile.labels, tile.classes), device)
        return perfect[tile.nuclei]

    normalisation = manifest_for("B").normalisation

    @torch.inference_mode()
    def predict(tile: Tile) -> Stages:
        maps = made_for(tile)
        times = [perf_counter()]
        images = torch.from_numpy(normalise(tile.image[None], normalisation)).to(device)
        times.append(perf_counter())
        raw = {name: values.float().cpu() for name, values in peer.activate(network(images)).items()}
        assert raw
        times.append(perf_counter())
        peer.finish(maps)
        times.append(perf_counter())
        return dict(zip(("prepare", "network", "post-processing"), np.diff(times).tolist(), strict=True))

    def networks(batch: int) -> Callable[[], object]:
        images = torch.rand(batch, 3, SIDE, SIDE).to(device)

        @torch.inference_mode()
        def call() -> object:
            return network(images)

        return call

    def finish(tile: Tile) -> object:
        return peer.finish(made_for(tile))

    return Subject(method, run, predict, networks, finish, **made)


def open_ours(
    method: str, runs: tuple[str, ...], folder: Path, device: str, threads: int | None, nuclei: int
) -> Opened:
    """PromptNucSeg of a size; nano is the shipped bundle, the others have random weights."""
    size = SIZES[method]
    options = Options(threads=threads)
    manifest = own_manifest(size)
    points = passes(manifest)
    counts = plain_counts(size, TYPICAL, points[:1])
    subjects: Opened = []
    if EAGER in runs:
        prompter, segmentor = own_pair(size)
        sessions = torch_sessions(prompter.to(device), segmentor.to(device), torch.device(device))
        run_macs = plain_counts(size, nuclei, points).macs
        bundle = Bundle(folder, manifest)
        subjects.append(_ours(method, EAGER, bundle, sessions, options, nuclei, counts, run_macs=run_macs))
    engines = {run: engine for run, engine in ENGINES.items() if run in runs}
    if not engines:
        return subjects
    made = folder / method
    bundle = copied_bundle(Bundle.open(NANO), made) if size == NANO else random_bundle(size, made)
    if any(engine.precision == "int8" for engine in engines.values()):
        bundle = with_int8(bundle)
    macs = exported_macs(bundle, TYPICAL, points[:1]), exported_macs(bundle, nuclei, points)
    for run, engine in engines.items():
        if engine.gpu:
            subjects.append(
                _on_device(method, run, engine, folder, counts, *macs) if device == "cuda" else no_gpu(method, run)
            )
            continue
        try:
            sessions = open_sessions(bundle, engine.backend, threads, engine.precision, cache=False)
        except PnsegError as error:
            subjects.append(Missing(method, run, str(error)))
            continue
        subjects.append(_ours(method, run, bundle, sessions, options, nuclei, counts, *macs))
    return subjects


def no_gpu(method: str, run: str) -> Missing:
    """What every run of a GPU is on a machine without one."""
    return Missing(method, run, "no GPU here")


def _on_device(
    method: str, run: str, engine: Engine, folder: Path, counts: Counts | None, exported: int, run_macs: int
) -> Subject | Missing:
    try:
        bundle = with_engines(device_bundle(SIZES[method], folder / f"{method}-gpu"), engine.flavour)
        predict = device_predict(bundle, engine)
    except (PnsegError, ImportError) as error:
        return Missing(method, run, str(error))
    origin = "this toolkit, all of it on the GPU" + ("" if method.endswith(NANO) else "; weights that draw discs")
    return Subject(
        method,
        run,
        predict,
        counts=counts,
        exported_macs=exported,
        run_macs=run_macs,
        origin=origin,
        difference="" if method.endswith(NANO) else OUR_DIFFERENCE,
    )


def _ours(
    method: str,
    run: str,
    bundle: Bundle,
    sessions: Sessions,
    options: Options,
    nuclei: int,
    counts: Counts | None,
    exported: int | None = None,
    run_macs: int | None = None,
) -> Subject:
    ready: dict[int, Segmenter] = {}

    def predict(tile: Tile) -> Stages:
        if tile.nuclei not in ready:
            own = staged(sessions, tile, bundle.manifest.prompting.anchor_spacing)
            ready[tile.nuclei] = Segmenter(bundle, options, sessions=own)
        found = ready[tile.nuclei].predict(tile.image)
        found.instance_map()
        return {stage: seconds for stage, seconds in found.timings.items() if stage != "total"}

    def networks(batch: int) -> Callable[[], object]:
        return _throughput(sessions, passes(bundle.manifest), nuclei, batch)

    return Subject(
        method,
        run,
        predict,
        networks,
        counts=counts,
        exported_macs=exported,
        run_macs=run_macs,
        origin="this toolkit" + ("; the shipped bundle" if method.endswith(NANO) else "; random weights"),
        difference="not in the paper" if method.endswith(NANO) else OUR_DIFFERENCE,
    )


OUR_DIFFERENCE = (
    "the paper counts positions for 16×16 tokens, no products of attention, and transposed convolutions by their "
    "output; each nucleus decoded once, with its negative prompt"
)


def _throughput(sessions: Sessions, points: Sequence[int], nuclei: int, batch: int) -> Callable[[], object]:
    """Prompter and encoder on a batch, the decoder on every image's nuclei, pass by pass, if there are any."""
    generator = np.random.default_rng(0)
    image = {"image": generator.standard_normal((batch, 3, SIDE, SIDE), np.float32)}
    prompts = nuclei * batch
    calls: list[Arrays] = [
        {
            "point_coords": SIDE * generator.random((prompts, each, 2), np.float32),
            "point_labels": np.tile(np.array([[1, *[0] * (each - 1)]], np.float32), (prompts, 1)),
            "image_index": np.repeat(np.arange(batch), nuclei),
        }
        for each in (points if nuclei else ())
    ]

    def call() -> object:
        sessions.prompter(image)
        features = sessions.encoder(image) if calls else {}
        return [sessions.decoder({**features, **each}) for each in calls]

    return call


def open_subjects(
    method: str,
    runs: tuple[str, ...],
    folder: Path,
    device: str = "cpu",
    threads: int | None = None,
    nuclei: int = TYPICAL,
) -> Opened:
    """A method of :data:`METHODS` by the engines that are asked for and that it has.

    Args:
        nuclei: of the tile that is to be timed, and of every image of a batch.

    Raises:
        ImportError: a library that a rival needs is not installed.
    """
    if method in PEERS:  # whose networks do the same whatever the number of nuclei
        return open_rival(method, runs, folder, device, threads)
    return open_ours(method, runs, folder, device, threads, nuclei)
