"""Simplified graphs: the exporter's own result, without its slow rule."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from pnseg_export.onnx import OPSET
from pnseg_export.simplify import simplify


class Mixed(nn.Module):
    """A bit of everything that the networks are made of: convolutions with norms, tables cut in rows, moved axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.project = nn.Linear(8, 12)
        self.table = nn.Parameter(torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image).flatten(2).transpose(1, 2)
        heads = self.project(features).reshape(image.shape[0], -1, 4, 3).reshape(image.shape[0], -1, 12)
        rows = [heads @ self.table[row : row + 1] for row in range(4)]
        return torch.cat(rows, dim=2).transpose(1, 2).transpose(1, 2)[:, :, :]


@pytest.fixture(scope="module")
def program() -> torch.onnx.ONNXProgram:
    sizes = {"image": {0: torch.export.Dim("batch")}}
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = torch.onnx.export(
        Mixed().eval(), (image,), dynamic_shapes=sizes, opset_version=OPSET, dynamo=True, optimize=False, verbose=False
    )
    assert made is not None
    return made


def steps(model: ir.Model) -> list[tuple[object, ...]]:
    """What a graph does, whatever its tensors are called: operators, and each input's value or where it is from."""
    places = {
        output: (number, place) for number, node in enumerate(model.graph) for place, output in enumerate(node.outputs)
    }

    def source(value: ir.Value | None) -> object:
        if value is None or value.const_value is None:
            return places.get(value, "input")
        return value.const_value.numpy().shape, value.const_value.numpy().tobytes()

    return [(node.op_type, repr(node.attributes), *map(source, node.inputs)) for node in model.graph]


def test_the_graph_is_what_the_exporter_makes_of_it(program):
    ours = program.model.clone()
    simplify(ours)
    before = len(list(program.model.graph))
    program.optimize()
    assert steps(ours) == steps(program.model)
    assert len(steps(ours)) < before
