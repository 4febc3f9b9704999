"""``pnseg inspect`` counts what a bundle's graphs cost."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, save

from pnseg_runtime.bundle import MANIFEST_NAME, GraphFile
from pnseg_runtime.cli import cli
from pnseg_runtime.hashes import sha256_of
from tests.fakes import fake_bundle


@pytest.fixture
def bundle(tmp_path) -> Path:
    """Three graphs of one product each, 10 × 10 a window, pixel row or prompt."""
    graphs = {}
    for part, axis in {"prompter": "height", "encoder": "batch", "decoder": "prompts"}.items():
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [axis, 10])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [axis, 10])
        weight = helper.make_tensor("w", TensorProto.FLOAT, [10, 10], [0.5] * 100)
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], part, [x], [y], [weight])
        path = tmp_path / f"{part}.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
        graphs[part] = GraphFile(
            file=path.name, sha256=sha256_of(path), bytes=path.stat().st_size, inputs={"x": [axis, 10]}, outputs={}
        )
    manifest = fake_bundle().manifest.model_copy(update={"graphs": graphs})
    (tmp_path / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return tmp_path


def test_costs_of_each_graph_and_in_all_as_json(bundle):
    result = CliRunner().invoke(cli, ["inspect", str(bundle), "--nuclei", "24", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    macs = {part: round(1e9 * graph["gmacs"]) for part, graph in document["graphs"].items()}
    assert macs == {"prompter": 256 * 100, "encoder": 100, "decoder": 24 * 100}
    assert document["nuclei"] == 24
    assert round(1e9 * document["total"]["gmacs"]) == sum(macs.values())
    assert document["total"]["parameters"] == 300
    assert document["total"]["weight_bytes"] == 1200
    assert document["total"]["activation_bytes"] == 256 * 10 * 4 * 2


def test_table_has_a_line_a_graph_and_a_total(bundle):
    result = CliRunner().invoke(cli, ["inspect", str(bundle)])
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.output.splitlines()[1:]] == ["prompter", "encoder", "decoder", "total"]


def test_a_bundle_that_is_not_there_is_one_sentence(tmp_path):
    result = CliRunner().invoke(cli, ["inspect", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output
