"""By which engines a method runs, as data."""

from __future__ import annotations

from dataclasses import dataclass

EAGER = "PyTorch eager"
ORT = "ONNX Runtime FP32"


@dataclass(frozen=True)
class Engine:
    """A backend of the runtime and what it computes in.

    Attributes:
        backend: its name in :data:`pnseg_runtime.sessions.BACKENDS`.
        precision: as a bundle names it.
        gpu: whether it needs one.
    """

    backend: str
    precision: str
    gpu: bool = False


#: A run's name → the engine; PyTorch itself is none of the runtime's.
ENGINES = {
    ORT: Engine("onnxruntime", "float32"),
    "ONNX Runtime INT8": Engine("onnxruntime", "int8"),
    "OpenVINO FP32": Engine("openvino", "float32"),
    "OpenVINO BF16": Engine("openvino", "bfloat16"),
    "OpenVINO INT8": Engine("openvino", "int8"),
    "TensorRT FP16": Engine("tensorrt", "float16", gpu=True),
    "TensorRT FP16 + CUDA graph": Engine("tensorrt-graph", "float16", gpu=True),
    "TensorRT-RTX FP16": Engine("rtx", "float16", gpu=True),
    "TensorRT-RTX FP16 + CUDA graph": Engine("rtx-graph", "float16", gpu=True),
}

RUNS = (EAGER, *ENGINES)
