"""Every kernel gives, bit for bit, what the runtime's NumPy gives."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from pnseg_runtime.windows import MacroTile, windows
from tests import golden
from tests.runtime.cuda import cases, twins
from tests.runtime.cuda.emulated import EmulationError
from tests.runtime.made import sample

#: Around the borders of warps, blocks and words.
SIZES = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300]
SEEDS = range(8)


@pytest.fixture(autouse=True, params=[0, 1])
def shuffled(run, request):
    """In the order of the threads' numbers, and in another."""
    run.shuffle(request.param)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (2, 3), (31, 64), (40, 33), (100, 90), (65, 129)])
def test_windows_are_cut_mirrored_and_normalised(run, height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    twins.check_normalise(run, image, 32, 8)
    twins.check_normalise(run, image, 48, 16, threads=32)


def test_a_real_image_is_cut_mirrored_and_normalised(run):
    twins.check_normalise(run, sample(), 128, 32)


@pytest.mark.parametrize("view", [(0, 0, 40, 30), (5, 7, 12, 30), (39, 0, 40, 30), (3, 3, 35, 29)])
def test_a_part_of_an_image_is_mirrored_at_its_own_borders(run, view):
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    twins.check_view(run, image, view, (64, 96))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("filtered", [False, True])
def test_anchors_are_decoded_filtered_and_compacted(run, seed, filtered):
    rng = np.random.default_rng(seed)
    for classes in (1, 2, 3, 6):
        shape = tuple(int(side) for side in rng.integers(1, 150, 2))
        raw, padded = cases.prompter_outputs(rng, shape, 8, classes)
        assert padded[0] >= shape[0]
        settings = {"sensitivity": float(rng.choice([0, 1.2, -0.7])), "threshold": float(rng.choice([0, 0.5]))}
        twins.check_decode(run, raw, shape, 8, filtered=filtered, **settings)


def test_no_anchor_and_every_anchor_can_be_a_point(run):
    for logit, count in ((-9, 0), (9, 70)):
        raw, _ = cases.prompter_outputs(np.random.default_rng(0), (56, 80), 8, 2)
        raw["class_logits"][:] = [logit, 0]
        assert twins.check_decode(run, raw, (56, 80), 8, filtered=False) == count


def test_equal_logits_go_to_the_first_class_and_what_is_no_number_to_none(run):
    raw, _ = cases.prompter_outputs(np.random.default_rng(3), (64, 64), 8, 3)
    raw["class_logits"] = np.round(raw["class_logits"])
    raw["class_logits"][::7, 1], raw["class_logits"][::5, 2] = np.nan, np.inf
    raw["class_logits"][3::11] = -np.inf
    raw["points"][::13, 0], raw["points"][::17, 1] = np.nan, -np.inf
    assert twins.check_decode(run, raw, (60, 60), 8) > 5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_macro_tile_gives_the_points_of_its_core_in_the_image(run, seed):
    rng = np.random.default_rng(seed)
    raw, _ = cases.prompter_outputs(rng, (96, 128), 8, 2)
    tile = MacroTile(core=(1032, 520, 1096, 584), view=(1000, 500, 1128, 596))
    assert twins.check_decode(run, raw, (96, 128), 8, tile) > 0


@pytest.mark.parametrize(("name", "count"), [("prompter_pannuke", 2), ("prompter_cpm17", 3)])
def test_recorded_outputs_of_the_prompter_are_decoded(run, name, count):
    recorded, spacing = golden.arrays(name), golden.document(name)["config"]["space"]
    for index in range(count):
        height, width = recorded[f"image_{index}"].shape[2:]
        region = recorded[f"pred_masks_{index}"][0, 0]
        padded = tuple(-(-side // spacing) * spacing for side in (height, width))
        raw = {
            "points": np.ascontiguousarray(recorded[f"pred_coords_{index}"][0]),
            "class_logits": np.ascontiguousarray(recorded[f"pred_logits_{index}"][0]),
            "region_logits": np.pad(region, [(0, padded[0] - height), (0, padded[1] - width)]),
        }
        assert twins.check_decode(run, raw, (height, width), spacing) > 0


@pytest.mark.parametrize("n", SIZES)
def test_point_nms_keeps_what_the_greedy_loop_keeps(run, n):
    for seed in range(6):
        coords, scores = cases.points(np.random.default_rng([n, seed]), n)
        for radius in (0.0, 3.0, 5.5, 12.0):
            twins.check_suppress_points(run, coords, scores, radius)


def test_point_nms_follows_a_chain_in_which_every_point_decides_the_next(run):
    coords = np.stack([np.arange(300) * 5.0, np.zeros(300)], axis=1).astype(np.float32)
    for scores in (np.linspace(1, 0, 300), np.linspace(0, 1, 300), np.zeros(300)):
        twins.check_suppress_points(run, coords, scores.astype(np.float32), 7.0)


@pytest.mark.parametrize("n", SIZES[1:])  # the runtime asks for prompts only where there are points
@pytest.mark.parametrize("negatives", [0, 1, 2, 4])
def test_points_come_to_their_windows_with_their_nearest_negatives(run, n, negatives):
    rng = np.random.default_rng([n, negatives])
    for shape, assignment in (((90, 130), "central"), ((64, 200), "all"), ((20, 30), "central")):
        coords = cases.distinct_points(rng, n, shape)
        twins.check_prompts(run, coords, shape, 64, 16, negatives, assignment, wide=bool(n % 2))


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("n", [0, 1, 3, 33, 65])
def test_masks_are_boxed_and_written_at_full_resolution(run, n, size):
    rng = np.random.default_rng([n, size])
    for shape in ((64, 64), (50, 90), (150, 170)):
        origins = windows(shape, 64, 16)[rng.integers(0, len(windows(shape, 64, 16)), n)]
        twins.check_masks(run, cases.logits(rng, n, size), origins, 64, shape)
        twins.check_masks(run, cases.specks(rng, n, size), origins, 64, shape)


def test_masks_of_every_shape_come_out_exactly(run):
    rng = np.random.default_rng(5)
    logits = np.concatenate([cases.logits(rng, 40, 16), rng.normal(size=(40, 16, 16)).astype(np.float32)])
    logits[0], logits[1], logits[2, :8], logits[3] = 1, -1, -1, 0
    logits[4], logits[4, 5, 5] = -1, 1e-20
    logits[5:9] = np.round(logits[5:9])
    logits[9] *= 1e30
    twins.check_masks(run, logits, np.zeros((80, 2), np.int64), 32, (32, 32))


def test_recorded_masks_of_the_segmentor_come_out_exactly(run):
    logits = np.ascontiguousarray(golden.arrays("segmentor_tiny")["low_res_masks"][:, 0])
    found = twins.check_masks(run, logits, np.zeros((len(logits), 2), np.int64), 256, (256, 256), threads=256)
    assert len(found.points) > 5


def test_masks_that_find_no_room_are_left_out_and_counted(run):
    rng = np.random.default_rng(6)
    logits = cases.logits(rng, 20, 16)
    twins.check_masks(run, logits, np.zeros((20, 2), np.int64), 64, (64, 64), missing=100)


@pytest.mark.parametrize("width", [1, 5, 31, 32, 33, 63, 64, 65, 100])
def test_masks_are_cut_to_their_largest_piece_and_filled(run, width):
    rng = np.random.default_rng(width)
    smooth = [gaussian_filter(rng.normal(size=(int(rng.integers(1, 40)), width)), s) > 0.02 for s in (0.5, 1, 2, 3)]
    noise = [rng.random((int(rng.integers(1, 25)), width)) < p for p in (0.1, 0.5, 0.8)]
    rings = [cases.rings(rng, width)]
    twins.check_tidy(run, [np.ones((3, width), bool), np.zeros((4, width), bool), *smooth, *noise, *rings])


def test_regions_that_wind_are_followed_to_their_end(run):
    twins.check_tidy(run, [cases.spiral(41), ~cases.spiral(40), cases.spiral(97)])


@pytest.mark.parametrize("n", SIZES)
def test_of_all_masks_of_a_point_the_best_stays(run, n):
    rng = np.random.default_rng(n)
    for threshold in (0.0, 0.5):
        ious = rng.choice(np.array([0.0, -0.0, 0.3, 0.5, 0.7, 0.9, 1.1, -0.2], np.float32), n)
        ious[rng.random(n) < 0.1] = np.nan
        twins.check_match(run, rng.integers(0, n // 2 + 1, n), ious, rng.random(n) < 0.2, threshold)


@pytest.mark.parametrize("n", SIZES)
def test_box_nms_keeps_what_the_greedy_loop_keeps(run, n):
    for seed, threshold in enumerate((0.0, 0.3, 0.35, 0.5, 0.7, 1.0)):
        twins.check_boxes(run, *cases.boxes(np.random.default_rng([n, seed]), n), threshold)


@pytest.mark.parametrize("n", SIZES)
def test_mask_nms_keeps_what_the_greedy_loop_keeps(run, n):
    for seed, threshold in enumerate((0.0, 0.3, 0.5, 0.9, 1.0)):
        boxes, masks, ious = cases.placed_masks(np.random.default_rng([n, seed]), n, (150, 170))
        twins.check_shares(run, boxes, masks, ious, threshold)


def test_a_mask_that_shares_exactly_as_much_as_is_allowed_stays(run):
    boxes, masks, ious = cases.halves()
    for threshold in (0.4, 0.5, 0.6):
        twins.check_shares(run, boxes, masks, ious, threshold)


@pytest.mark.parametrize("n", [0, 1, 31, 33, 64, 65, 100])
@pytest.mark.parametrize("tidy", [False, True])
def test_painting_shows_the_most_confident_nucleus_of_every_pixel(run, n, tidy):
    rng = np.random.default_rng([n, tidy])
    shape = (90, 110)
    boxes, masks, ious = cases.placed_masks(rng, n, shape)
    twins.check_paint(run, boxes, masks, ious, rng.random(n) < 0.8, shape, tidy)


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_of_label_maps_are_counted_and_matched(run, seed):
    rng = np.random.default_rng(seed)
    first, _ = label(gaussian_filter(rng.normal(size=(80, 90)), 1.5) > 0.05)
    second = np.roll(first, int(rng.integers(0, 3)), axis=1)
    second[second == 3] = 0
    second = np.unique(second, return_inverse=True)[1].reshape(second.shape)
    twins.check_overlaps(run, first.astype(np.int32), second.astype(np.int32))


def test_overlaps_of_empty_and_full_maps_are_counted(run):
    nothing, everything = np.zeros((5, 7), np.int32), np.ones((5, 7), np.int32)
    half = np.repeat(np.arange(2, dtype=np.int32), 20).reshape(5, 8)
    for first in (nothing, everything):
        for second in (nothing, everything):
            twins.check_overlaps(run, first, second)
    twins.check_overlaps(run, np.ones((5, 8), np.int32), half)  # IoU of exactly 0.5 is no match


def test_an_empty_grid_is_an_error(run):
    with pytest.raises(EmulationError, match="empty grid"):
        run("scan_counts", 0, 32, twins.one(1), 1, twins.junk(2))
