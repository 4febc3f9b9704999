from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnseg_runtime.clock import STAGES
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.windows import Part, macro_tiles
from tests import golden
from tests.fakes import FakeNetworks, disc, fake_bundle, marked_image


def scattered_discs(shape, seed, gap=40):
    """Discs on a jittered grid, far enough from each other not to touch."""
    rng = np.random.default_rng(seed)
    height, width = shape
    return [
        (
            int(np.clip(x + rng.integers(-5, 6), 0, width - 1)),
            int(np.clip(y + rng.integers(-5, 6), 0, height - 1)),
            int(rng.integers(6, 13)),
            int(rng.integers(2)),
            int(rng.integers(100, 256)),
        )
        for y in range(0, height, gap)
        for x in range(0, width, gap)
    ]


def segment(image, options=None, mask_size=64, **manifest):
    bundle = fake_bundle(**manifest)
    networks = FakeNetworks(bundle, mask_size)
    with Segmenter(bundle, options, sessions=networks.sessions()) as segmenter:
        return segmenter.predict(image, mpp=0.25), networks


def by_position(nuclei):
    """Everything about each nucleus, keyed by its point, so that predictions can be compared."""
    return {
        tuple(point): (int(kind), float(score), tuple(box), mask.tobytes())
        for point, kind, score, box, mask in zip(
            nuclei.points.tolist(),
            nuclei.classes,
            nuclei.scores,
            nuclei.boxes.tolist(),
            nuclei.masks,
            strict=True,
        )
    }


@pytest.mark.parametrize("mask_size", [64, 128])
def test_known_discs_come_back_with_their_places_classes_and_shapes(mask_size):
    shape = (500, 700)
    discs = scattered_discs(shape, seed=0)
    nuclei, _ = segment(marked_image(shape, discs), mask_size=mask_size)
    assert {tuple(p) for p in nuclei.points.astype(int).tolist()} == {d[:2] for d in discs}
    found = {tuple(p): i for i, p in enumerate(nuclei.points.astype(int).tolist())}
    labels = nuclei.instance_map()
    for x, y, radius, kind, _ in discs:
        index = found[x, y]
        assert nuclei.classes[index] == kind
        truth = disc(shape, x, y, radius)
        overlap = (labels == index + 1) & truth
        assert overlap.sum() / ((labels == index + 1) | truth).sum() > 0.85


def test_nuclei_are_ordered_by_descending_predicted_iou_and_boxes_are_tight():
    shape = (300, 300)
    nuclei, _ = segment(marked_image(shape, scattered_discs(shape, seed=1)))
    assert (np.diff(nuclei.ious) <= 0).all()
    for (x0, y0, x1, y1), mask in zip(nuclei.boxes, nuclei.masks, strict=True):
        assert mask.shape == (y1 - y0, x1 - x0)
        assert mask[0].any()
        assert mask[-1].any()
        assert mask[:, 0].any()
        assert mask[:, -1].any()


def test_an_image_seen_in_macro_tiles_gives_what_it_gives_seen_whole():
    shape = (1000, 900)
    image = marked_image(shape, scattered_discs(shape, seed=2))
    whole, seen = segment(image)
    tiled, parts = segment(image, Options(macro_tile=320, macro_margin=32))
    assert len(seen.prompter_shapes) == 1
    assert len(parts.prompter_shapes) > 1
    assert all(max(s[2:]) <= 320 for s in parts.prompter_shapes)
    assert by_position(whole) == by_position(tiled)


@pytest.mark.parametrize("shape", [(256, 256), (448, 260), (700, 300)])
def test_decoding_in_the_most_central_window_agrees_with_decoding_in_all(shape):
    image = marked_image(shape, scattered_discs(shape, seed=3))
    central, few = segment(image, Options(assignment="central"))
    everywhere, many = segment(image, Options(assignment="all"))
    assert by_position(central) == by_position(everywhere)
    assert sum(p for p, _ in few.prompt_counts) <= sum(p for p, _ in many.prompt_counts)


def test_windows_smaller_than_the_image_give_what_one_large_window_gives():
    shape = (400, 512)
    image = marked_image(shape, scattered_discs(shape, seed=4))
    cut, _ = segment(image)
    whole, networks = segment(image, masking={"window": 512, "overlap": 64}, mask_size=128)
    assert networks.window_counts == [1]
    assert by_position(cut) == by_position(whole)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_batch_sizes_do_not_change_the_result(batch):
    shape = (500, 500)
    image = marked_image(shape, scattered_discs(shape, seed=5))
    usual, _ = segment(image)
    other, networks = segment(image, Options(window_batch=batch, prompt_batch=batch))
    assert by_position(usual) == by_position(other)
    assert max(networks.window_counts) <= batch
    assert max(p for p, _ in networks.prompt_counts) <= batch


def test_each_point_is_decoded_with_its_negatives_and_again_without():
    image = marked_image((100, 200), [(20, 20, 8, 0, 200), (60, 50, 8, 0, 200), (150, 60, 8, 0, 200)])
    assert segment(image, Options(negatives=2))[1].prompt_counts == [(3, 3), (3, 1)]
    assert segment(image, Options(negatives=0))[1].prompt_counts == [(3, 1)]


def test_the_more_certain_of_the_two_masks_of_a_point_stays():
    image = marked_image((100, 100), [(20, 20, 8, 0, 200), (70, 50, 8, 0, 100)])
    nuclei, _ = segment(image, Options(negatives=1))
    np.testing.assert_allclose(nuclei.ious, [200 / 512 + 0.25, 100 / 512 + 0.25], atol=1e-6)


def test_a_more_confident_nucleus_covers_a_less_confident_one():
    image = marked_image((100, 100), [(40, 40, 12, 0, 250), (56, 40, 12, 0, 100)])
    nuclei, _ = segment(image)
    assert nuclei.points.astype(int).tolist() == [[40, 40], [56, 40]]
    assert nuclei.masks[0].sum() > nuclei.masks[1].sum()
    covered = np.zeros((100, 100), int)
    for (x0, y0, x1, y1), mask in zip(nuclei.boxes, nuclei.masks, strict=True):
        covered[y0:y1, x0:x1] += mask
    assert covered.max() == 1


def test_of_two_nuclei_on_the_same_spot_the_less_confident_one_goes():
    image = marked_image((100, 100), [(40, 40, 16, 0, 250), (48, 40, 16, 1, 100)])
    nuclei, networks = segment(image)
    assert networks.prompt_counts == [(2, 2), (2, 1)]
    assert nuclei.points.astype(int).tolist() == [[40, 40]]


def test_thresholds_drop_uncertain_points_and_masks():
    image = marked_image((100, 100), [(20, 20, 8, 0, 250), (70, 50, 8, 0, 1)])
    assert len(segment(image)[0]) == 2
    assert len(segment(image, Options(score_threshold=0.9))[0]) == 1
    assert len(segment(image, Options(iou_threshold=0.5))[0]) == 1


def test_a_mask_cut_by_its_window_is_dropped_but_one_at_the_image_border_stays():
    shape = (256, 448)
    at_image_border = (3, 3, 12, 0, 200)
    larger_than_the_overlap = (224, 128, 60, 0, 200)
    nuclei, _ = segment(marked_image(shape, [at_image_border, larger_than_the_overlap]))
    assert nuclei.points.astype(int).tolist() == [[3, 3]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (10, 3000), (3000, 10), (33, 31), (255, 257)])
def test_images_of_any_size_are_segmented(shape):
    height, width = shape
    discs = [(width // 2, height // 2, 9, 1, 200)]
    nuclei, networks = segment(marked_image(shape, discs))
    assert nuclei.shape == shape
    assert nuclei.points.tolist() == [[width // 2, height // 2]]
    assert nuclei.instance_map().max() == 1
    assert all(s[2] % 32 == 0 and s[3] % 32 == 0 for s in networks.prompter_shapes)


def test_padding_adds_no_points():
    # Mirrored, this mark lies at x = 33 + 3 too, which is not in the image.
    nuclei, _ = segment(marked_image((33, 34), [(30, 5, 3, 0, 200)]))
    assert nuclei.points.tolist() == [[30, 5]]


def test_an_image_without_nuclei_gives_an_empty_result():
    nuclei, networks = segment(np.zeros((300, 300, 3), np.uint8))
    assert len(nuclei) == 0
    assert nuclei.boxes.shape == (0, 4)
    assert nuclei.points.shape == (0, 2)
    assert not nuclei.instance_map().any()
    assert networks.window_counts == []


def test_every_stage_is_timed():
    nuclei, _ = segment(marked_image((64, 64), [(20, 20, 8, 0, 200)]))
    assert tuple(nuclei.timings) == STAGES
    assert all(seconds > 0 for seconds in nuclei.timings.values())
    assert nuclei.timings["total"] >= sum(nuclei.timings[stage] for stage in STAGES[:-1])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**32))
def test_every_isolated_nucleus_of_any_image_is_found_once(height, width, seed):
    discs = scattered_discs((height, width), seed)
    positions = {}
    for entry in discs:  # clipping at small images' borders can put two close to each other
        if all(np.hypot(entry[0] - x, entry[1] - y) > 26 for x, y in positions):
            positions[entry[:2]] = entry
    nuclei, _ = segment(marked_image((height, width), list(positions.values())))
    assert sorted(map(tuple, nuclei.points.astype(int).tolist())) == sorted(positions)


@pytest.mark.parametrize("name", ["prompter_cpm17", "prompter_pannuke"])
@pytest.mark.parametrize("region_filter", [False, True])
def test_the_points_that_are_decoded_are_those_of_the_reference_implementation(name, region_filter):
    recorded = golden.arrays(name)
    config = golden.document(name)["config"]
    prompting = {
        "anchor_spacing": config["space"],
        "nms_radius": config["nms_radius_px"],
        "region_filter": region_filter,
    }
    # One window over the whole image, so that its coordinates are the image's.
    bundle = fake_bundle(prompting=prompting, masking={"window": 512})
    networks = FakeNetworks(bundle)
    decoded = []

    def prompter(inputs):
        assert inputs["image"].shape == recorded["image_1"].shape
        outputs = {"points": "pred_coords_1", "class_logits": "pred_logits_1", "region_logits": "pred_masks_1"}
        return {output: recorded[key] for output, key in outputs.items()}

    def decoder(inputs):
        decoded.extend(inputs["point_coords"][:, 0].tolist())
        return networks.decoder(inputs)

    sessions = replace(networks.sessions(), prompter=prompter, decoder=decoder)
    height, width = recorded["image_1"].shape[2:]
    Segmenter(bundle, Options(negatives=0), sessions=sessions).predict(np.zeros((height, width, 3), np.uint8))
    assert decoded == recorded[f"points_1_filter{int(region_filter)}"].tolist()


@pytest.mark.parametrize(("core", "margin"), [(192, 192), (384, 192), (576, 256)])
def test_masks_decoded_part_by_part_are_those_of_the_whole_image(core, margin):
    shape = (700, 1000)
    image = marked_image(shape, scattered_discs(shape, seed=6))
    bundle = fake_bundle()
    whole, _ = segment(image)
    found = {}
    with Segmenter(bundle, sessions=FakeNetworks(bundle).sessions()) as segmenter:
        for tile in macro_tiles(shape, core + 2 * margin, margin):
            x0, y0, x1, y1 = tile.view
            view = image[y0:y1, x0:x1]
            points = segmenter.pipeline.find_points(view)
            owned = tile.owns(points.shifted((x0, y0)).coords)
            masks = segmenter.pipeline.decode_part(view, points, owned, Part.of(tile.view, shape, 256, 64))
            for point, box, mask in zip(masks.points, masks.boxes, masks.masks, strict=True):
                place = tuple((points.coords[point] + (x0, y0)).tolist())
                assert place not in found
                found[place] = (tuple((box + np.tile((x0, y0), 2)).tolist()), mask.tobytes())
    assert found == {place: nucleus[2:] for place, nucleus in by_position(whole).items()}
