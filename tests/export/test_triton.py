"""The repository: configurations that Triton's own schema reads, and a pipeline that finds the same nuclei."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pnseg_export.engines.profiles import Buckets
from pnseg_export.precision.feeds import SAMPLES, read_tiles
from pnseg_export.triton.config import ModelConfig, Tensor
from pnseg_export.triton.repository import OUTPUTS, export_triton
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions.onnxruntime import open_session
from tests.runtime.cuda.made_engines import bundle_with_engines

NETWORKS = ("prompter", "encoder", "decoder")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "models"
    assert export_triton(Bundle.open("nano"), out) == ["nano_prompter", "nano_encoder", "nano_decoder", "nano"]
    return out


def parsed(text: str):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs the extra triton")
    from google.protobuf import text_format

    return text_format.Parse(text, schema.ModelConfig()), schema


def test_tritons_schema_reads_every_configuration(repository):
    folders = sorted(repository.iterdir())
    assert len(folders) == len(NETWORKS) + 1
    for folder in folders:
        config, _ = parsed((folder / "config.pbtxt").read_text())
        assert config.name == folder.name
        assert (folder / "1").is_dir()
        assert config.instance_group[0].count >= 1


def test_networks_are_batched_but_for_the_decoder_and_their_tensors_are_the_manifests(repository):
    bundle = Bundle.open("nano")
    for network in NETWORKS:
        config, schema = parsed((repository / f"nano_{network}" / "config.pbtxt").read_text())
        graph = bundle.graph(network)
        assert config.backend == "onnxruntime"
        assert (repository / f"nano_{network}" / "1" / "model.onnx").stat().st_size == graph.bytes
        batched = network != "decoder"
        assert config.HasField("dynamic_batching") == batched
        assert (config.max_batch_size > 0) == batched
        for tensors, axes in ((config.input, graph.inputs), (config.output, graph.outputs)):
            assert [tensor.name for tensor in tensors] == list(axes)
            for tensor in tensors:
                expected = [-1 if isinstance(axis, str) else axis for axis in axes[tensor.name]]
                assert list(tensor.dims) == expected[1 if batched else 0 :]
                kind = schema.TYPE_INT64 if tensor.name == "image_index" else schema.TYPE_FP32
                assert tensor.data_type == kind


def test_every_profile_of_an_engine_is_used_since_triton_takes_the_first_alone_unless_told(tmp_path):
    bundle = Bundle.open(bundle_with_engines(tmp_path / "nano", precision="float32"))
    export_triton(bundle, tmp_path / "models", backend="tensorrt")
    profiles = {engine.graph: len(engine.profiles) for engine in bundle.manifest.engines}
    assert profiles == {"prompter": 2, "encoder": 2, "decoder": 3}
    for network in NETWORKS:
        config, schema = parsed((tmp_path / "models" / f"nano_{network}" / "config.pbtxt").read_text())
        (group,) = config.instance_group
        assert group.kind == schema.ModelInstanceGroup.KIND_GPU
        assert list(group.profile) == [str(number) for number in range(profiles[network])]
        assert (tmp_path / "models" / f"nano_{network}" / "1" / "model.plan").is_file()


def test_a_pipeline_on_engines_is_told_what_they_take(tmp_path):
    folder = bundle_with_engines(tmp_path / "nano", precision="float32", buckets=Buckets((1, 4), (16, 32), 512))
    export_triton(Bundle.open(folder), tmp_path / "models", backend="tensorrt")
    config, _ = parsed((tmp_path / "models" / "nano" / "config.pbtxt").read_text())
    told = {name: config.parameters[name].string_value for name in ("windows", "prompts", "side")}
    assert told == {"windows": "4", "prompts": "32", "side": "512"}


def test_a_field_that_the_schema_does_not_have_is_caught(repository):
    text = (repository / "nano" / "config.pbtxt").read_text().replace("max_batch_size", "max_batch")
    with pytest.raises(Exception, match="max_batch"):
        parsed(text)


def test_names_are_quoted():
    config = ModelConfig('a"b', "python", (Tensor("x", "TYPE_FP32", (-1,)),), ())
    assert parsed(config.text())[0].name == 'a"b'


class FakeServer(ModuleType):
    """As much of Triton's Python utilities as the pipeline uses, on the models of a repository."""

    TRITONSERVER_MEMORY_CPU = 0
    PreferredMemory = staticmethod(lambda kind: kind)
    Tensor = staticmethod(lambda name, array: SimpleNamespace(name=name, as_numpy=lambda: array))
    TritonError = staticmethod(lambda message: SimpleNamespace(message=lambda: message))

    def __init__(self, repository: Path):
        super().__init__("triton_python_backend_utils")
        self.models = {
            f"nano_{network}": open_session(repository / f"nano_{network}" / "1" / "model.onnx") for network in NETWORKS
        }
        self.broken: set[str] = set()

    def InferenceRequest(self, model_name, requested_output_names, inputs, preferred_memory):
        def run():
            if model_name in self.broken:
                return self.InferenceResponse(error=self.TritonError("out of memory"))
            found = self.models[model_name]({tensor.name: tensor.as_numpy() for tensor in inputs})
            return self.InferenceResponse([self.Tensor(name, found[name]) for name in requested_output_names])

        return SimpleNamespace(exec=run)

    def InferenceResponse(self, output_tensors=(), error=None):
        return SimpleNamespace(tensors=output_tensors, has_error=lambda: error is not None, error=lambda: error)

    @staticmethod
    def get_output_tensor_by_name(response, name):
        return next(tensor for tensor in response.tensors if tensor.name == name)

    get_input_tensor_by_name = get_output_tensor_by_name


@pytest.fixture
def served(repository, monkeypatch):
    server = FakeServer(repository)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)
    spec = importlib.util.spec_from_file_location("served_model", repository / "nano" / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    config, _ = parsed((repository / "nano" / "config.pbtxt").read_text())
    parameters = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
    model.initialize(
        {
            "model_repository": str(repository / "nano"),
            "model_version": "1",
            "model_config": json.dumps({"parameters": parameters}),
        }
    )
    return model, server


def test_the_served_pipeline_finds_the_same_nuclei(served):
    model, server = served
    tile = read_tiles(SAMPLES)[0]
    request = SimpleNamespace(tensors=[server.Tensor("image", tile)])
    (response,) = model.execute([request])
    expected = Segmenter(Bundle.open("nano")).predict(tile)
    given = {tensor.name: tensor.as_numpy() for tensor in response.tensors}
    np.testing.assert_array_equal(given["labels"], expected.instance_map())
    np.testing.assert_allclose(given["points"], expected.points, atol=1e-4)
    dtypes = {"TYPE_INT32": np.int32, "TYPE_FP32": np.float32, "TYPE_INT64": np.int64}
    for tensor in OUTPUTS:
        assert given[tensor.name].dtype == dtypes[tensor.type], tensor.name
        assert given[tensor.name].ndim == len(tensor.dims)


def test_a_wrong_image_or_a_failing_network_fails_its_request_alone(served):
    model, server = served
    tile = read_tiles(SAMPLES)[0]
    wrong = SimpleNamespace(tensors=[server.Tensor("image", tile.astype(np.float32))])
    right = SimpleNamespace(tensors=[server.Tensor("image", tile)])
    first, second = model.execute([wrong, right])
    assert "uint8" in first.error().message()
    assert not second.has_error()
    server.broken.add("nano_encoder")
    (third,) = model.execute([right])
    assert third.error().message() == "nano_encoder: out of memory"


def test_rtx_engines_are_not_served_and_folders_not_overwritten(repository, tmp_path):
    with pytest.raises(PnsegError, match=r"--target tensorrt --precision float32$"):
        export_triton(Bundle.open("nano"), tmp_path / "models", backend="tensorrt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PnsegError, match="exists already"):
        export_triton(Bundle.open("nano"), repository)
