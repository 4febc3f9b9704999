"""Engines take batches and images of limited sizes, and options keep to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnseg_runtime.limits import Limits
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from tests.fakes import FakeNetworks, fake_bundle, marked_image

PROFILES = {
    "prompter": [{"image": (1, 3, 256, 256)}, {"image": (1, 3, 1024, 768)}],
    "encoder": [{"image": (1, 3, 256, 256)}, {"image": (8, 3, 256, 256)}],
    "decoder": [
        {"embedding": (4, 256, 16, 16), "point_coords": (32, 2, 2), "point_labels": (32, 2), "image_index": (32,)},
        {"embedding": (4, 256, 16, 16), "point_coords": (64, 2, 2), "point_labels": (64, 2), "image_index": (64,)},
    ],
}


def test_limits_are_what_all_of_the_networks_take():
    assert Limits.of(PROFILES) == Limits(windows=4, prompts=64, side=768)


def test_networks_without_profiles_take_anything():
    limits = Limits.of({"prompter": [], "encoder": [], "decoder": []})
    assert limits.within(Options()) == Options()


@given(st.integers(1, 64), st.integers(1, 512), st.integers(32, 4096), st.integers(0, 8))
def test_options_within_limits_are_options_and_no_larger_than_asked_for(windows, prompts, side, margin):
    asked = Options(macro_tile=2048, macro_margin=32 * margin)
    options = Limits(windows, prompts, side).within(asked)
    assert options.window_batch == min(windows, asked.window_batch)
    assert options.prompt_batch == min(prompts, asked.prompt_batch)
    assert options.macro_tile <= min(side, asked.macro_tile)
    assert options.macro_margin <= asked.macro_margin
    if side >= asked.macro_tile:
        assert (options.macro_tile, options.macro_margin) == (asked.macro_tile, asked.macro_margin)


def test_macro_tiles_within_limits_are_the_largest_that_fit_with_a_quarter_for_the_context():
    options = Limits(windows=8, prompts=64, side=1000).within(Options())
    assert (options.macro_tile, options.macro_margin) == (992, 224)


@pytest.mark.parametrize("limits", [None, Limits(windows=1, prompts=2, side=64)])
def test_a_segmenter_keeps_to_what_its_networks_take(limits):
    bundle = fake_bundle()
    networks = FakeNetworks(bundle)
    sessions = networks.sessions()
    segmenter = Segmenter(bundle, sessions=type(sessions)(*sessions_of(sessions), limits=limits))
    image = marked_image((300, 300), [(x, y, 8, 0, 200) for x in range(20, 300, 40) for y in range(20, 300, 40)])
    assert len(segmenter.predict(image)) == 49
    most = max(networks.window_counts)
    assert most == 1 if limits else most > 1


def sessions_of(sessions):
    return sessions.prompter, sessions.encoder, sessions.decoder
