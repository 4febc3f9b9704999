"""Test-time augmentation: views of a window, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.views import PLAIN, SIX
from tests.fakes import FakeNetworks, fake_bundle, marked_image
from tests.runtime.test_pipeline import by_position, scattered_discs, segment

SIDE = 16


@pytest.mark.parametrize("view", SIX, ids=lambda view: view.name)
def test_the_way_back_from_a_view_gives_the_image(view):
    image = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8)
    np.testing.assert_array_equal(view.back(view.of(image)), image)


def test_the_views_are_six_different_ones_as_the_method_names_them():
    image = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    expected = [image, image[:, ::-1], image[::-1], *(np.rot90(image, turns) for turns in (1, 2, 3))]
    for view, one in zip(SIX, expected, strict=True):
        np.testing.assert_array_equal(view.of(image), one)


@given(st.sampled_from(SIX), st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))
def test_a_moved_point_lies_on_the_same_pixel(view, x, y):
    image = np.zeros((SIDE, SIDE), np.int64)
    image[y, x] = 1
    coords, labels = np.array([[[x, y], [0, 0]]], np.float32), np.array([[1, -1]], np.float32)
    (moved_x, moved_y), missing = view.moved(coords, labels, SIDE)[0]
    assert view.of(image)[int(moved_y), int(moved_x)] == 1
    assert missing.tolist() == [0, 0]


def test_networks_that_turn_with_their_image_give_the_same_nuclei_with_augmentation():
    shape = (420, 510)
    image = marked_image(shape, scattered_discs(shape, seed=2))
    plain, _ = segment(image)
    augmented, networks = segment(image, Options(tta=True))
    assert by_position(augmented) == by_position(plain)
    assert len(networks.window_counts) % len(SIX) == 0


class Biased(FakeNetworks):
    """Masks and predicted IoU differ from call to call, as if from view to view."""

    def __init__(self, bundle):
        super().__init__(bundle)
        self.calls = 0

    def decoder(self, inputs):
        raw = super().decoder(inputs)
        self.calls += 1
        # One negative prompt and none: two passes of six calls each on one window.
        bias = (self.calls - 1) % len(SIX)
        return {"mask_logits": raw["mask_logits"] + 2 * bias, "iou": raw["iou"] + 0.01 * bias}


def test_logits_and_predicted_iou_are_averaged_over_the_views():
    bundle = fake_bundle(prompting={"negatives": 0})
    image = marked_image((256, 256), [(100, 120, 10, 0, 128)])
    networks = Biased(bundle)
    nuclei = Segmenter(bundle, Options(tta=True), sessions=networks.sessions()).predict(image)
    assert networks.calls == len(SIX)
    # Biases 0 to 10 px have the mean 5: a disc of 15 px.
    assert nuclei.masks[0].sum() == pytest.approx(np.pi * 15**2, rel=0.03)
    assert nuclei.ious[0] == pytest.approx(128 / 512 + 0.025)


def test_without_augmentation_networks_see_each_window_once():
    image = marked_image((256, 256), [(100, 120, 10, 0, 128)])
    _, networks = segment(image)
    assert len(PLAIN) == len(networks.window_counts) == 1


@pytest.mark.parametrize("overlap", [0, 64, 128])
def test_overlap_sets_the_stride_of_the_windows_and_no_more(overlap):
    shape = (256, 256 + 3 * (256 - overlap))
    image = marked_image(shape, scattered_discs(shape, seed=3))
    _, networks = segment(image, Options(overlap=overlap))
    assert sum(networks.window_counts) == 4
    assert len(networks.prompter_shapes) == 1


def test_windows_that_overlap_whole_are_refused():
    with pytest.raises(ValueError, match="less than a window"):
        segment(np.zeros((300, 300, 3), np.uint8), Options(overlap=256))
    with pytest.raises(ValueError, match="negative"):
        Options(overlap=-1)
