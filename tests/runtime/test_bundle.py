"""The manifest: old ones still open, and every file that it names is checked."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pnseg_runtime.bundle import (
    FORMAT_VERSION,
    SHIPPED,
    Bundle,
    EngineFile,
    GraphFile,
    Manifest,
    file_entry,
)
from pnseg_runtime.errors import BundleError

GRAPHS = ("prompter", "encoder", "decoder")


def engine(folder: Path) -> EngineFile:
    place = folder / "engines" / "rtx-sm86-1.0"
    place.mkdir(parents=True)
    (place / "encoder.engine").write_bytes(b"engine")
    (place / "encoder.log").write_text("log")
    return EngineFile(
        **file_entry(place / "encoder.engine", folder).model_dump(),
        flavour="rtx",
        version="1.0",
        architectures=["sm86"],
        precision="float16",
        graph="encoder",
        inputs={"image": ["batch", 3, 256, 256]},
        outputs={},
        profiles=[],
        census={"HALF": 3},
        layers={"CONVOLUTION": 1},
        seconds=1.0,
        log=file_entry(place / "encoder.log", folder),
    )


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle with every kind of file, none of which is a network."""
    folder = tmp_path / "bundle"
    folder.mkdir()

    def graph(name: str, precision: str) -> GraphFile:
        paths = [folder / f"{name}.{precision}.onnx", folder / f"{name}.{precision}.onnx.data"]
        for path in paths:
            path.write_text(path.name)
        entry = file_entry(paths[0], folder).model_dump()
        return GraphFile(**entry, precision=precision, inputs={}, outputs={}, data=[file_entry(paths[1], folder)])

    document = json.loads((SHIPPED / "nano" / "manifest.json").read_text())
    manifest = Manifest.model_validate(
        document
        | {
            "format_version": FORMAT_VERSION,
            "graphs": {name: graph(name, "float32") for name in GRAPHS},
            "variants": {"float16": {name: graph(name, "float16") for name in GRAPHS}},
            "engines": [engine(folder)],
        }
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def masking(**changes: Any) -> dict[str, Any]:
    document = json.loads((SHIPPED / "nano" / "manifest.json").read_text())
    return {"masking": document["masking"] | changes}


def prompting(**changes: Any) -> dict[str, Any]:
    document = json.loads((SHIPPED / "nano" / "manifest.json").read_text())
    return {"prompting": document["prompting"] | changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"graphs": {}}, "names no graphs"),
        ({"mpp": 0}, "mpp: .*greater than 0"),
        ({"colour": "blue"}, "colour: .*not permitted"),
        ({"colour_blur": -1}, "colour_blur"),
        (prompting(anchor_spacing=0), r"prompting.anchor_spacing"),
        (prompting(levels=0), r"prompting.levels"),
        (prompting(pad_multiple=0), r"prompting.pad_multiple"),
        (prompting(nms_radius=-1), r"prompting.nms_radius"),
        (prompting(negatives=-1), r"prompting.negatives"),
        (masking(border=-1), r"masking.border"),
        (masking(overlap=-1), r"masking.overlap"),
        (masking(nms_iou=1.5), r"masking.nms_iou"),
        (masking(nms_overlap=1.5), r"masking.nms_overlap"),
        ({"normalisation": {"std": [0.2, 0.0, 0.2]}}, r"normalisation.std.1: .*greater than 0"),
        (masking(iou_threshold=2), r"masking.iou_threshold"),
        (masking(score_threshold=float("nan")), r"masking.score_threshold: .*finite"),
        (masking(overlap=256), "cannot overlap by 256 px"),
        (masking(window=0), r"masking.window"),
        ({"classes": {"names": ["nucleus"], "colors": []}}, "1 names and 0 colors"),
        ({"classes": {"names": [], "colors": []}}, r"classes.names"),
        ({"format_version": "99"}, "format_version"),
        ({"format_version": 7.0}, "newer pnseg"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_when_the_bundle_is_opened(bundle, changes, says):
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=says):
        Bundle.open(bundle)


def test_a_graph_that_is_missing_is_named(bundle):
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    del graphs["decoder"]
    edit(bundle, graphs=graphs)
    with pytest.raises(BundleError, match="the float32 graphs lack decoder"):
        Bundle.open(bundle)


def test_what_is_not_even_a_path_or_a_document_is_one_sentence(bundle):
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open("n" * 300)
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    graphs["encoder"]["file"] = "a\0b"
    edit(bundle, graphs=graphs)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(bundle)
    for text, says in (("[" * 200_000, "the manifest cannot be read"), ("[]", r"not a valid manifest \(manifest: ")):
        (bundle / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match=says):
            Bundle.open(bundle)


def test_paths_are_those_of_the_precision_asked_for(bundle):
    opened = Bundle.open(bundle)
    assert opened.manifest.precisions == ("float32", "float16")
    assert opened.path("encoder") == bundle / "encoder.float32.onnx"
    assert opened.path("encoder", "float16") == bundle / "encoder.float16.onnx"
    with pytest.raises(BundleError, match=r"no int8 graphs.*float32, float16"):
        opened.path("encoder", "int8")


@pytest.mark.parametrize(
    "name",
    [
        "decoder.float32.onnx",
        "decoder.float32.onnx.data",
        "decoder.float16.onnx",
        "decoder.float16.onnx.data",
        "engines/rtx-sm86-1.0/encoder.engine",
        "engines/rtx-sm86-1.0/encoder.log",
    ],
)
def test_any_file_that_was_changed_or_lost_is_refused(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[0] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Bundle.open(bundle)
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="missing from the bundle"):
        Bundle.open(bundle)


def test_a_file_outside_the_bundle_is_refused(bundle):
    shutil.copy(bundle / "encoder.float32.onnx", bundle.parent)
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    graphs["encoder"]["data"][0]["file"] = "../encoder.float32.onnx"
    edit(bundle, graphs=graphs)
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(bundle)


def test_a_precision_that_lacks_a_graph_is_refused(bundle):
    variants = json.loads((bundle / "manifest.json").read_text())["variants"]
    del variants["float16"]["prompter"]
    edit(bundle, variants=variants)
    with pytest.raises(BundleError, match="float16 graphs lack prompter"):
        Bundle.open(bundle)


def test_a_folder_that_is_called_like_a_shipped_bundle_is_not_that_bundle(tmp_path):
    assert Bundle.open("nano").folder == SHIPPED / "nano"
    (tmp_path / "nano").mkdir()
    for place in (tmp_path / "nano", tmp_path / "none" / "nano"):
        with pytest.raises(BundleError, match=f"{place}: no bundle here"):
            Bundle.open(place)


def test_engines_compute_in_the_most_exact_precision_that_they_were_built_in(bundle):
    manifest = Bundle.open(bundle).manifest
    half = manifest.engines[0]
    quantised = half.model_copy(update={"precision": "int8"})
    assert manifest.model_copy(update={"engines": [quantised, half]}).engine_precision == "float16"
    assert manifest.model_copy(update={"engines": [quantised]}).engine_precision == "int8"
    assert manifest.model_copy(update={"engines": []}).engine_precision is None


def test_a_new_field_of_the_manifest_raises_its_version():
    schema = Manifest.model_json_schema()
    fields = {name: sorted(part.get("properties", {})) for name, part in {**schema["$defs"], "": schema}.items()}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    assert (FORMAT_VERSION, digest) == (6, "635fddecaf80d26c"), "raise FORMAT_VERSION, then put both down here"


def test_a_manifest_of_version_4_softens_enlarged_images_no_more_than_others(bundle):
    document = json.loads((bundle / "manifest.json").read_text())
    document.pop("enlarged_blur", None)
    (bundle / "manifest.json").write_text(json.dumps(document | {"format_version": 4}))
    assert Bundle.open(bundle).manifest.enlarged_blur == (0.0, 0.0)


def test_a_manifest_of_version_1_still_opens(bundle):
    document = json.loads((bundle / "manifest.json").read_text())
    del document["variants"], document["engines"]
    for graph in document["graphs"].values():
        for field in ("data", "census", "kept"):
            del graph[field]
    (bundle / "manifest.json").write_text(json.dumps(document | {"format_version": 1}))
    opened = Bundle.open(bundle)
    assert opened.manifest.precisions == ("float32",)
    assert opened.manifest.engines == []
