"""``config.pbtxt``, the text form of Triton's ``ModelConfig`` message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Dims = Sequence[int | str]

TYPES = {"image_index": "TYPE_INT64"}  # all other tensors of the networks are TYPE_FP32


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, type, and dimensions, of which -1 is dynamic."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class ModelConfig:
    """One model of the repository.

    Attributes:
        name: the folder's name.
        backend: ``onnxruntime``, ``tensorrt`` or ``python``.
        inputs: without the batch where ``max_batch`` is over 0.
        outputs: likewise.
        max_batch: most requests' images in one call; 0 leaves batching out.
        delay: how long a request may wait for others, µs.
        preferred: batch sizes to wait for.
        kind: where instances run.
        count: instances.
        profiles: optimisation profiles of a TensorRT engine, all of which an instance uses; 0 for other models.
        parameters: of the backend.
    """

    name: str
    backend: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int = 0
    delay: int = 500
    preferred: tuple[int, ...] = ()
    kind: str = "KIND_AUTO"
    count: int = 1
    profiles: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The file's content."""
        # Without names of profiles Triton uses the first alone; with them, that which is tuned nearest to a request.
        profiles = "".join(f"  profile: {_quoted(str(number))}\n" for number in range(self.profiles))
        parts = [
            f"name: {_quoted(self.name)}",
            f"backend: {_quoted(self.backend)}",
            f"max_batch_size: {self.max_batch}",
            *(_tensor("input", tensor) for tensor in self.inputs),
            *(_tensor("output", tensor) for tensor in self.outputs),
            f"instance_group {{\n  kind: {self.kind}\n  count: {self.count}\n{profiles}}}",
        ]
        if self.max_batch:
            sizes = "".join(f"  preferred_batch_size: {size}\n" for size in self.preferred)
            parts.append(f"dynamic_batching {{\n{sizes}  max_queue_delay_microseconds: {self.delay}\n}}")
        for key, value in self.parameters.items():
            entry = f"  key: {_quoted(key)}\n  value {{\n    string_value: {_quoted(value)}\n  }}"
            parts.append(f"parameters {{\n{entry}\n}}")
        return "\n".join(parts) + "\n"


def network_tensors(tensors: Mapping[str, Dims], batched: bool) -> tuple[Tensor, ...]:
    """A graph's inputs or outputs; their first axis is left out where Triton makes batches."""
    return tuple(
        Tensor(
            name,
            TYPES.get(name, "TYPE_FP32"),
            tuple(-1 if isinstance(axis, str) else axis for axis in (axes[1:] if batched else axes)),
        )
        for name, axes in tensors.items()
    )


def _tensor(role: str, tensor: Tensor) -> str:
    dims = "".join(f"  dims: {size}\n" for size in tensor.dims)
    return f"{role} {{\n  name: {_quoted(tensor.name)}\n  data_type: {tensor.type}\n{dims}}}"


def _quoted(text: str) -> str:
    return json.dumps(text)
