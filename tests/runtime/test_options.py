import pytest

from pnseg_runtime.options import Options, Settings
from tests.fakes import fake_bundle


def test_settings_are_the_manifests_unless_chosen_otherwise():
    manifest = fake_bundle(prompting={"negatives": 2}, masking={"nms_iou": 0.3}).manifest
    usual = Settings.of(manifest, Options())
    assert (usual.negatives, usual.nms_iou, usual.region_filter) == (2, 0.3, True)
    chosen = Settings.of(manifest, Options(negatives=0, nms_iou=0.0, region_filter=False))
    assert (chosen.negatives, chosen.nms_iou, chosen.region_filter) == (0, 0.0, False)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"threads": 0}, "threads"),
        ({"window_batch": 0}, "window_batch"),
        ({"prompt_batch": -1}, "prompt_batch"),
        ({"negatives": -1}, "negatives"),
        ({"nms_radius": -0.5}, "nms_radius"),
        ({"nms_iou": 1.5}, "nms_iou"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"assignment": "nearest"}, "assignment"),
        ({"macro_tile": 1000}, "multiples of 32"),
        ({"macro_tile": 256, "macro_margin": 128}, "twice"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice, says):
    with pytest.raises(ValueError, match=says):
        Options(**choice)
