import pytest

from pnseg_runtime.bundle import Bundle, Masking, Prompting
from pnseg_train.manifests import fields_of, manifest_of
from pnseg_train.recipes import Inference, read_recipe

OTHER = {
    "sensitivity": 0.25,
    "region_filter": False,
    "nms_radius": 7.0,
    "negatives": 3,
    "pad_multiple": 64,
    "nms_iou": 0.4,
    "nms_overlap": 0.3,
    "iou_threshold": 0.2,
    "tidy": True,
    "overlap": 32,
    "colour_blur": 1.5,
    "enlarged_blur": [0.5, 2.0],
    "unknown_mpp": "model",
}


@pytest.mark.parametrize("name", ["nano", "kumar", "pannuke-123"])
@pytest.mark.parametrize("changed", [None, *OTHER])
def test_the_manifest_of_what_a_manifest_says_is_that_manifest(name, changed):
    changes = {} if changed is None else {f"inference.{changed}": OTHER[changed]}
    recipe = read_recipe(name, changes)
    manifest = manifest_of(recipe)
    assert manifest_of(read_recipe(name, fields_of(manifest))) == manifest
    assert changed is None or fields_of(manifest)[f"inference.{changed}"] == getattr(recipe.inference, changed)


def test_a_shipped_manifest_goes_into_a_recipe_and_comes_out_again():
    shipped = Bundle.open("nano").manifest
    again = manifest_of(read_recipe("nano", fields_of(shipped)))
    for part in ("mpp", "classes", "prompting", "colour_blur", "enlarged_blur", "unknown_mpp"):
        assert getattr(again, part) == getattr(shipped, part)


def test_no_setting_of_the_inference_is_left_out():
    assert set(OTHER) == set(Inference.model_fields)
    named = {*Prompting.model_fields, *Masking.model_fields, "colour_blur", "enlarged_blur", "unknown_mpp"}
    assert set(OTHER) <= named
