"""By which engines a method runs, as data."""

from __future__ import annotations

from dataclasses import dataclass

EAGER = "PyTorch eager"
ORT = "ONNX Runtime FP32"


@dataclass(frozen=True)
class Engine:
    """What runs the networks, and in what precision.

    Attributes:
        backend: its name in :data:`pnseg_runtime.sessions.BACKENDS`; empty for the path that is on the GPU alone.
        precision: as a bundle names it.
        flavour: of the TensorRT engines, for the GPU's own path.
        graphs: whether the GPU's own path records CUDA graphs.
    """

    backend: str
    precision: str
    flavour: str = ""
    graphs: bool = False

    @property
    def gpu(self) -> bool:
        """Whether it needs one."""
        return not self.backend


#: A run's name → the engine; PyTorch itself is none of the runtime's.
ENGINES = {
    ORT: Engine("onnxruntime", "float32"),
    "ONNX Runtime INT8": Engine("onnxruntime", "int8"),
    "OpenVINO FP32": Engine("openvino", "float32"),
    "OpenVINO BF16": Engine("openvino", "bfloat16"),
    "OpenVINO INT8": Engine("openvino", "int8"),
    "TensorRT FP16": Engine("", "float16", "tensorrt"),
    "TensorRT FP16 + CUDA graphs": Engine("", "float16", "tensorrt", graphs=True),
    "TensorRT-RTX FP16": Engine("", "float16", "rtx"),
    "TensorRT-RTX FP16 + CUDA graphs": Engine("", "float16", "rtx", graphs=True),
}

RUNS = (EAGER, *ENGINES)
#: What rivals run by: their networks are no bundles.
RIVAL_RUNS = (EAGER, ORT)
