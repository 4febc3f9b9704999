import pytest
from click.testing import CliRunner

from pnseg_runtime.cli import cli
from pnseg_runtime.options import Options, Settings
from pnseg_runtime.softening import Blur, Blurs
from tests.fakes import fake_bundle
from tests.runtime.made import SAMPLES


def test_settings_are_the_manifests_unless_chosen_otherwise():
    manifest = fake_bundle(prompting={"negatives": 2}, masking={"nms_iou": 0.3}).manifest
    usual = Settings.of(manifest, Options())
    assert (usual.negatives, usual.nms_iou, usual.region_filter) == (2, 0.3, True)
    chosen = Settings.of(manifest, Options(negatives=0, nms_iou=0.0, region_filter=False))
    assert (chosen.negatives, chosen.nms_iou, chosen.region_filter) == (0, 0.0, False)


def test_colour_is_softened_as_the_manifest_says_unless_chosen_otherwise():
    manifest = fake_bundle().manifest.model_copy(update={"colour_blur": 1.5})
    assert Settings.of(manifest, Options()).colour_blur == 1.5
    assert Settings.of(manifest, Options(colour_blur=0.0)).colour_blur == 0.0


def test_an_image_is_softened_for_the_prompter_by_how_much_it_was_enlarged():
    manifest = fake_bundle().manifest.model_copy(update={"colour_blur": 1.5, "enlarged_blur": (2.0, 6.0)})
    usual = Settings.of(manifest, Options())
    assert Blurs.of(usual, 1.0) == Blurs.of(usual, 0.5) == Blurs(Blur(0.0, 1.5), Blur(0.0, 1.5))
    assert Blurs.of(usual, 2.0) == Blurs(prompter=Blur(2.0, 7.5), segmentor=Blur(0.0, 1.5))
    assert Blurs.of(usual, 1.5) == Blurs(prompter=Blur(1.0, 4.5), segmentor=Blur(0.0, 1.5))
    sharp = Settings.of(manifest, Options(enlarged_blur=(0.0, 0.0)))
    assert Blurs.of(sharp, 2.0).prompter == Blurs.of(sharp, 2.0).segmentor


def test_masks_are_suppressed_by_what_was_chosen_last():
    manifest = fake_bundle(masking={"nms_iou": 0.3, "nms_overlap": 0.4}).manifest
    assert Settings.of(manifest, Options()).nms_overlap == 0.4
    assert Settings.of(manifest, Options(nms_iou=0.5)).nms_overlap is None
    assert Settings.of(manifest, Options(nms_iou=0.0)).nms_overlap is None
    assert Settings.of(manifest, Options(nms_iou=0.5, nms_overlap=0.2)).nms_overlap == 0.2
    assert Settings.of(fake_bundle().manifest, Options(nms_overlap=0.2)).nms_overlap == 0.2


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"threads": 0}, "threads"),
        ({"window_batch": 0}, "window_batch"),
        ({"prompt_batch": -1}, "prompt_batch"),
        ({"negatives": -1}, "negatives"),
        ({"nms_radius": -0.5}, "nms_radius"),
        ({"nms_iou": 1.5}, "nms_iou"),
        ({"colour_blur": -1.0}, "colour_blur"),
        ({"enlarged_blur": (0.0, -1.0)}, "enlarged_blur"),
        ({"enlarged_blur": 2.0}, "two numbers"),
        ({"nms_overlap": -0.1}, "nms_overlap"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"sensitivity": float("nan")}, "sensitivity must be a number"),
        ({"iou_threshold": float("inf")}, "iou_threshold must be a number"),
        ({"enlarged_blur": (0.0, float("nan"))}, "enlarged_blur must be a number"),
        ({"negatives": 65}, "at most 64"),
        ({"assignment": "nearest"}, "assignment"),
        ({"macro_tile": 1000}, "multiples of 32"),
        ({"macro_margin": 100}, "multiples of 32"),
        ({"macro_margin": -32}, "macro_margin must not be negative"),
        ({"macro_tile": 256, "macro_margin": 128}, "twice"),
        ({"workers": 0}, "workers"),
        ({"queue": 0}, "queue"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice, says):
    with pytest.raises(ValueError, match=says):
        Options(**choice)


def test_the_most_negatives_can_be_chosen():
    assert Options(negatives=64).negatives == 64


def test_the_usual_context_is_a_quarter_of_small_macro_tiles_in_whole_strides():
    assert [Options(macro_tile=side).context for side in (2048, 1280, 1024, 352, 32)] == [320, 320, 256, 64, 0]
    assert Options(macro_margin=0).context == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--sensitivity", "nan"], "sensitivity must be a number, not nan."),
        (["--colour-blur", "nan"], "colour_blur must be a number, not nan."),
        (["--mpp", "nan"], "nan is no number."),
        (["--mpp", "0,25"], "0,25 is not a number with a decimal point, auto or model."),
        (["--negatives", "100000000"], "negatives must be at most 64, not 100000000."),
    ],
)
def test_choices_on_the_command_line_that_make_no_sense_are_one_sentence(tmp_path, given, says):
    result = CliRunner().invoke(cli, ["predict", str(SAMPLES / "he_pink.png"), "--out", str(tmp_path), *given])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].endswith(says)
    assert not list(tmp_path.iterdir())


def test_microns_per_pixel_of_a_slide_cannot_be_guessed(tmp_path):
    result = CliRunner().invoke(cli, ["slide", str(SAMPLES / "he_pink.png"), "--mpp", "auto", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].endswith("auto is not a number with a decimal point.")


def test_a_slide_of_no_microns_per_pixel_is_refused_before_anything_is_opened(tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["slide", str(SAMPLES / "he_pink.png"), "--mpp", "nan", "--out", str(out)])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].endswith("nan is no number.")
    assert not out.exists()
