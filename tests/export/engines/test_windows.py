"""What attending together spares an engine of SAM's encoder."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from pnseg_export.engines.build import run
from pnseg_export.engines.job import Built, EngineJob
from pnseg_export.files import read_graph
from pnseg_export.graphs.encoder import EncoderGraph
from pnseg_export.graphs.rewrites import GPU
from pnseg_export.onnx import export_graph
from pnseg_export.precision.float16 import halve
from pnseg_runtime.bundle import ShapeRange
from tests.export.networks import images, segmentor

BLOCKS, GLOBAL = 3, 1
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the extra rtx"),
]


def engine_of(windows: str, folder: Path) -> Built:
    """What the builder says of three blocks of B's width in half precision, one of them global."""
    folder.mkdir()
    network = EncoderGraph(segmentor("B"), replace(GPU, windows=windows))
    export_graph(network, (images(2),), folder / "encoder.onnx")
    half, _ = halve(read_graph(folder / "encoder.onnx"))
    onnx.save(half, folder / "half.onnx")
    shapes = ShapeRange(smallest=(1, 3, 256, 256), tuned=(8, 3, 256, 256), largest=(8, 3, 256, 256))
    job = EngineJob(
        flavour="rtx",
        architecture="sm86",
        graph="encoder",
        precision="float16",
        model=str(folder / "half.onnx"),
        engine=str(folder / "engine"),
        log=str(folder / "log"),
        profiles=[{"image": shapes}],
    )
    return run(job, folder, folder)


def test_windows_that_attend_together_are_one_fused_attention_a_block_and_far_fewer_kernels(tmp_path):
    apart, together = (engine_of(windows, tmp_path / windows) for windows in ("apart", "together"))
    windowed = BLOCKS - GLOBAL
    assert (apart.attention, apart.fused_attention) == (4 * windowed + GLOBAL, 4 * windowed + GLOBAL)
    assert (together.attention, together.fused_attention) == (BLOCKS, BLOCKS)
    assert apart.kernels[0] - together.kernels[0] > 20 * windowed
    assert together.kernels[0] < 14 * BLOCKS + 12  # beside the blocks: patches, neck and the decoder's projections
