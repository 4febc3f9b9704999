"""Parity: what is the same passes, planted faults are caught and named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from pnseg_export.agreement import Finding, agreement, findings, near_pairs
from pnseg_export.cli.parity import parity
from pnseg_export.comparison import participants as taking_part
from pnseg_export.comparison import suspects
from pnseg_export.comparison.bisect import TOLERANCE, bisect
from pnseg_export.comparison.compare import Result, tensor_differences
from pnseg_export.comparison.participants import Participant, participants
from pnseg_export.files import read_graph
from pnseg_export.folders import write_manifest
from pnseg_export.graphs.rewrites import TARGETS
from pnseg_export.precision import float16
from pnseg_export.precision.feeds import SAMPLES, read_tiles
from pnseg_export.precision.float16 import halve
from pnseg_export.precision.rounded import rounded
from pnseg_runtime.bundle import SHIPPED, Bundle, file_entry
from pnseg_runtime.cli import cli
from pnseg_runtime.nuclei import Nuclei, NucleusClass
from pnseg_runtime.options import Options
from pnseg_runtime.prompts import PointPrompts
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.evaluate_sets import evaluate_run
from tests.export import made
from tests.export.networks import images
from tests.export.tiles import write_coarse


def edited(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    array = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return copy


@pytest.fixture(scope="module")
def encoder(exported) -> onnx.ModelProto:
    """A small SAM encoder with random positions."""
    return read_graph(exported(("sam", "cpu")) / "encoder.onnx")


CALLS = [{"image": images(1).numpy()}]


@pytest.mark.slow
def test_a_wrong_relative_position_is_named(encoder):
    node = next(n for n in encoder.graph.node if n.name == "image_encoder.blocks.1.attention/MatMul")
    wrong = edited(encoder, node.input[1], lambda rows: rows[..., ::-1, :, :])  # of each query's row, another's
    found = bisect(encoder, wrong, CALLS, TOLERANCE["float32"])
    assert found is not None
    assert found.layer == "image_encoder.blocks.1.attention"
    assert found.before < 1e-4 < found.error


@pytest.mark.slow
def test_a_transposed_weight_is_named(encoder):
    node = next(n for n in encoder.graph.node if n.name == "image_encoder.blocks.0.attention.proj/MatMul")
    found = bisect(encoder, edited(encoder, node.input[1], np.transpose), CALLS, TOLERANCE["float32"])
    assert found is not None
    assert found.layer == "image_encoder.blocks.0.attention.proj"


@pytest.mark.slow
def test_a_graph_does_not_depart_from_itself(encoder):
    assert bisect(encoder, encoder, CALLS, 1e-9) is None


def test_a_norm_in_half_precision_is_named(monkeypatch):
    large = made.large_before_norm()
    tolerance = TOLERANCE["float16"]
    assert bisect(large, rounded(halve(large)[0]), made.calls(), tolerance) is None
    monkeypatch.delitem(float16.FLOAT_OPERATORS, "LayerNormalization")
    found = bisect(large, rounded(halve(large)[0]), made.calls(), tolerance)
    assert found is not None
    assert (found.layer, found.operator) == ("norm", "LayerNormalization")


def test_a_model_that_finds_nothing_agrees_with_nothing():
    tiles = read_tiles(SAMPLES)[:1]
    found = findings(Segmenter(Bundle.open("nano")), tiles)
    blank = findings(Segmenter(Bundle.open("nano")), [np.zeros_like(tiles[0])])
    none = agreement(found, [Finding(found[0].points.select(np.zeros(0, int)), blank[0].nuclei)])
    assert none.mean_iou < 0.5
    assert none.share_lost == 1.0


def test_points_are_paired_one_to_one_and_only_when_near():
    first = np.array([[10, 10], [20, 10], [200, 200]], np.float32)
    second = np.array([[21, 10], [11, 10], [100, 100]], np.float32)
    rows, columns = near_pairs(first, second)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0}


def test_points_farther_apart_in_one_mask_prompt_one_nucleus_and_in_two_masks_do_not():
    class_ = (NucleusClass("nucleus", (0, 0, 0)),)

    def finding(x: float, masks: bool = True) -> Finding:
        coords, one = np.array([[x, 10]], np.float32), np.ones(1, np.float32)
        boxes = np.array([[2, 2, 22, 20]], np.int32)
        nuclei = Nuclei(
            (40, 60), coords, np.zeros(1, np.int64), one, one, boxes, (np.full((18, 20), masks),), class_table=class_
        )
        return Finding(PointPrompts(coords, np.zeros(1, np.int64), one), nuclei)

    assert agreement([finding(6)], [finding(18)]).confident_lost == 0
    assert agreement([finding(6)], [finding(30)]).confident_lost == 1
    assert agreement([finding(6, masks=False)], [finding(18)]).confident_lost == 1


def test_tensor_differences_are_the_largest_and_the_least_alike():
    expected = [{"points": np.array([1.0, 0.0])}, {"points": np.array([1.0, 0.0])}]
    given = [{"points": np.array([1.0, 0.0])}, {"points": np.array([0.0, 1.0])}]
    assert tensor_differences(expected, given) == {"points": {"max_abs": 1.0, "cosine": 0.0}}


@pytest.mark.parametrize("broken_first", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_the_same(value, broken_first):
    sound = [{"points": np.ones(2)}] * 2
    broken = [{"points": np.array([1.0, value])}, {"points": np.ones(2)}][:: 1 if broken_first else -1]
    with np.errstate(invalid="ignore"):
        found = tensor_differences(sound, broken)
    assert not np.isfinite(found["points"]["max_abs"])
    assert np.isnan(found["points"]["cosine"])
    alike = agreement([], [])
    result = Result("wrong", "int8", found | {"iou": {"max_abs": 0.1, "cosine": 0.9}}, alike, {}, {}, [])
    assert result.failures()[-1] == "wrong: points has values that are not finite"
    assert result.document()["tensors"] == {"points": {}, "iou": {"max_abs": 0.1, "cosine": 0.9}}


def test_failures_are_those_of_the_limits_that_were_asked_for(monkeypatch):
    def shrunk(sessions):
        def decoder(inputs):
            given = dict(sessions.decoder(inputs))
            return given | {"mask_logits": given["mask_logits"] - 0.02}

        return replace(sessions, decoder=decoder)

    def two(*given):
        first = participants(*given)[0]
        return [first, Participant("shrunk", "int8", lambda: shrunk(first.open()))]

    monkeypatch.setattr("pnseg_export.cli.parity.participants", two)
    for iou, exit_code in (("0.5", 0), ("1", 1)):
        done = CliRunner().invoke(parity, ["nano", "--limit", "1", "--iou", iou, "--json"])
        assert done.exit_code == exit_code, done.output
        document = json.loads(done.stdout)
        assert [each["failures"] for each in document["participants"]] == [[], document["failures"]]
        assert ["mean mask IoU" in sentence for sentence in document["failures"]] == [True] * exit_code


def test_openvino_takes_part_in_bfloat16_too_which_it_makes_of_the_float32_graphs(monkeypatch):
    monkeypatch.setattr("pnseg_export.comparison.participants._starts", lambda name, precision: name != "tensorrt")
    named = {each.name: each.precision for each in participants(Bundle.open("nano"))}
    assert named["openvino bfloat16"] == "bfloat16"
    assert [name for name, precision in named.items() if precision == "bfloat16"] == ["openvino bfloat16"]


def test_a_label_that_is_damaged_is_named_where_annotations_were_to_be_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("pnseg_export.cli.parity.participants", lambda *given: participants(*given)[:1])
    write_coarse(tmp_path / "coarse")
    (tmp_path / "coarse" / "labels" / "a.png").write_bytes(b"not an image")
    done = CliRunner().invoke(cli, ["parity", "nano", "--images", str(tmp_path / "coarse")])
    assert done.exit_code == 1
    assert "labels/a.png" in done.stderr
    shutil.rmtree(tmp_path / "coarse" / "labels")  # the images alone are no data set
    assert CliRunner().invoke(cli, ["parity", "nano", "--images", str(tmp_path / "coarse" / "images")]).exit_code == 0


def test_a_model_agrees_with_itself_and_a_lost_point_is_counted():
    tiles = read_tiles(SAMPLES)[:1]
    found = findings(Segmenter(Bundle.open("nano")), tiles)
    same = agreement(found, found)
    assert same.mean_iou == 1.0
    assert same.confident_lost == 0
    fewer = findings(Segmenter(Bundle.open("nano")), tiles)
    best = int(np.argmax(fewer[0].points.scores))
    keep = np.delete(np.arange(len(fewer[0].points)), best)
    lost = agreement(found, [type(fewer[0])(fewer[0].points.select(keep), fewer[0].nuclei)])
    assert lost.confident_lost == 1
    assert isinstance(found[0].nuclei, Nuclei)


def test_annotated_images_of_another_resolution_are_measured_as_evaluate_measures_them(tmp_path, monkeypatch):
    monkeypatch.setattr("pnseg_export.cli.parity.participants", lambda *given: participants(*given)[:1])
    write_coarse(tmp_path / "coarse")
    done = CliRunner().invoke(parity, ["nano", "--images", str(tmp_path / "coarse"), "--split", "val", "--json"])
    assert done.exit_code == 0, done.output
    (expected,) = evaluate_run("val", ["nano"], [tmp_path / "coarse"], Options(), oracle=False, radius=12.0).results
    assert expected.row["pq"] > 0.6
    (participant,) = json.loads(done.stdout)["participants"]
    assert participant["pq"] == pytest.approx(expected.row["pq"], abs=1e-4)
    assert participant["aji"] == pytest.approx(expected.row["aji"], abs=1e-4)


def faulty(folder: Path) -> Path:
    """nano with a variant whose prompter has a transposed weight."""
    shutil.copytree(SHIPPED / "nano", folder)
    bundle = Bundle.open(folder)
    model = read_graph(bundle.path("prompter"))
    name = next(t.name for t in model.graph.initializer if t.name.endswith("fpn_convs.0.conv.weight"))
    wrong = edited(model, name, lambda weight: weight.transpose(1, 0, 2, 3))
    onnx.save(wrong, folder / "prompter.int8.onnx")
    entry = bundle.graph("prompter").model_copy(update=file_entry(folder / "prompter.int8.onnx", folder).model_dump())
    graphs = {**bundle.manifest.graphs, "prompter": entry}
    write_manifest(folder, bundle.manifest.model_copy(update={"format_version": 2, "variants": {"int8": graphs}}))
    return folder


@pytest.mark.slow
def test_the_verb_fails_on_a_planted_fault_names_its_layer_and_draws_the_masks(tmp_path):
    folder, page = faulty(tmp_path / "nano"), tmp_path / "parity.html"
    arguments = [str(folder), "--limit", "2", "--bisect", "--threads", "2", "--json", "--html", str(page)]
    done = CliRunner().invoke(parity, arguments)
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout)
    assert any("ONNX Runtime int8" in sentence for sentence in document["failures"])
    sound = next(each for each in document["participants"] if each["name"] == "ONNX Runtime float32")
    assert sound["mask_iou_mean"] == 1.0
    assert len(document["departures"]) == 1
    assert document["departures"][0].startswith("prompter.int8.onnx: ")
    assert "Conv" in document["departures"][0]
    text = page.read_text(encoding="utf-8")
    assert "data:image/png;base64," in text
    assert "worst masks" in text


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_is_exported_again_with_the_rewrites_that_its_manifest_names(target):
    bundle = Bundle.open("nano")
    provenance = bundle.manifest.provenance.model_copy(update={"target": target})
    named = replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": provenance}))
    assert suspects.rewrites_of(named, None) == TARGETS[target]


@pytest.mark.slow
def test_checkpoints_are_the_reference_where_they_are_named(bundle_folder, checkpoints, exported_again, monkeypatch):
    monkeypatch.setattr(suspects, "export_again", lambda *_: exported_again)
    # The last bits decide which anchors of untrained networks are nuclei, and bfloat16 has few.
    starts = taking_part._starts
    monkeypatch.setattr(
        taking_part, "_starts", lambda name, precision: precision != "bfloat16" and starts(name, precision)
    )
    arguments = [str(bundle_folder), "--reference", *map(str, checkpoints), "--limit", "1", "--bisect", "--json"]
    done = CliRunner().invoke(parity, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["reference"] == "PyTorch"
    assert document["departures"] == []
    assert document["participants"][1]["tensors"]["mask_logits"]["max_abs"] < 1e-2
