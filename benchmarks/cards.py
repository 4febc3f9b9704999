"""Published peak rates of GPUs, as data: dense, without sparsity, at boost clocks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Peak rates.

    Attributes:
        fp32: TFLOP/s outside the tensor cores.
        fp16: TFLOP/s of the tensor cores, by whichever accumulation is faster.
        int8: TOP/s of the tensor cores.
        bandwidth: GB/s of the memory.
        source: the document that says so.
    """

    fp32: float
    fp16: float
    int8: float
    bandwidth: float
    source: str


CARDS = {
    "RTX 3090": Card(35.6, 142, 284, 936, "NVIDIA Ampere GA102 architecture whitepaper"),
    "RTX 4090": Card(82.6, 330.3, 660.6, 1008, "NVIDIA Ada GPU architecture whitepaper"),
    "RTX A6000": Card(38.7, 154.8, 309.7, 768, "NVIDIA Ampere GA102 architecture whitepaper"),
    "A100 80GB SXM": Card(19.5, 312, 624, 2039, "NVIDIA A100 datasheet"),
    "L40S": Card(91.6, 362, 733, 864, "NVIDIA L40S datasheet"),
    "H100 SXM": Card(66.9, 989.4, 1978.9, 3350, "NVIDIA H100 datasheet"),
}

#: Precision → the card's rate for it, and bytes of a value.
PRECISIONS = {"FP32": ("fp32", 4), "FP16": ("fp16", 2), "INT8": ("int8", 1)}
