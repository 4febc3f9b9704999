"""What ``pnseg info`` tells of a bundle that is sound."""

from __future__ import annotations

from typing import Any

from pnseg_runtime.bundle import Bundle, BundleFile, EngineFile
from pnseg_runtime.cli.info import describe


def test_info_tells_what_options_are_without_being_given_and_every_file_once() -> None:
    nano = Bundle.open("nano").manifest
    rows = dict(describe(nano))
    assert (rows["sensitivity"], rows["colour blur"]) == ("1.6", "2 px")
    assert rows["enlarged blur"] == "brightness 2 px, colour 6 px"
    assert rows["mask NMS"] == "masks that share more than 40% of the smaller one"
    boxes = nano.masking.model_copy(update={"nms_overlap": None})
    assert dict(describe(nano.model_copy(update={"masking": boxes})))["mask NMS"] == "boxes with an IoU over 0.35"


def test_info_tells_graphs_of_all_precisions_their_weights_and_engines() -> None:
    nano = Bundle.open("nano").manifest
    weights = BundleFile(file="encoder.int8.onnx.data", sha256="", bytes=5_000_000)
    changes = {"file": "encoder.int8.onnx", "bytes": 1_000_000, "precision": "int8", "data": [weights]}
    variant = nano.graphs | {"encoder": nano.graphs["encoder"].model_copy(update=changes)}
    log = BundleFile(file="e/encoder.log", sha256="", bytes=1)
    built = {"flavour": "rtx", "version": "1", "architectures": ["sm86"], "precision": "float16", "graph": "encoder"}
    counted: dict[str, Any] = {"inputs": {}, "outputs": {}, "profiles": [], "census": {}, "layers": {}, "seconds": 1.0}
    engine = EngineFile(file="e/encoder.engine", sha256="", bytes=3_000_000, log=log, **built, **counted)
    rows = list(describe(nano.model_copy(update={"variants": {"int8": variant}, "engines": [engine]})))
    assert [value for name, value in rows if name == "graph encoder"] == [
        "encoder.onnx, float32, 6.2 MB",
        "encoder.int8.onnx, int8, 6.0 MB",
    ]
    assert [value for name, value in rows if name == "graph decoder"] == ["decoder.onnx, float32, 2.8 MB"]
    assert dict(rows)["all graphs"] == "28.7 MB"
    assert dict(rows)["engine encoder"] == "e/encoder.engine, float16, 3.0 MB"
