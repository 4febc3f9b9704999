"""Crops keep image and maps aligned to the pixel."""

import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torchvision.transforms import v2

from pnseg_train.augment import StainJitter, ZoomCrop, as_tv, colour, geometry, separate
from pnseg_train.crops import Crops, item_seed, loader, normalise
from pnseg_train.datasets import Sample, read_folder
from pnseg_train.recipes import Augment
from tests import golden


def drawn_sample(height: int = 200, width: int = 260) -> Sample:
    """Nuclei painted in their own colour: the image says which pixel belongs to which nucleus."""
    rng = np.random.default_rng(3)
    instances = np.zeros((height, width), np.int32)
    ys, xs = np.mgrid[:height, :width]
    for value in range(1, 25):
        y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(5, 14)
        instances[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] = value
    image = np.repeat((instances[..., None] * 10).astype(np.uint8), 3, axis=2)
    return Sample("drawn", image, instances, (instances > 0).astype(np.uint8))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_image_and_maps_stay_aligned_through_the_geometry(seed):
    torch.manual_seed(seed)
    sample = drawn_sample()
    image, maps = geometry(sample.median_diameter(), 128, 20.0, 0.3, (0.55, 2.5))(*as_tv(sample))
    assert image.shape == (3, 128, 128)
    assert maps.shape == (2, 128, 128)
    assert torch.equal(maps[0] > 0, maps[1] > 0)
    # Away from edges, where colours mix, a pixel's colour is that of its nucleus.
    solid = torch.from_numpy(_interior(maps[0].numpy()))
    difference = (image[0].int() - 10 * maps[0].int()).abs()[solid]
    assert solid.sum() == 0 or float((difference <= 12).float().mean()) > 0.97


@pytest.mark.parametrize("turns", [False, True])
def test_crops_stay_upright_only_if_they_are_not_turned(turns):
    ramp = np.linspace(0, 250, 200).astype(np.uint8)
    image = np.repeat(np.repeat(ramp[:, None], 200, axis=1)[..., None], 3, axis=2)
    image[..., 1] = image[..., 0].T  # red grows downwards, green to the right
    sample = Sample("ramps", image, np.zeros((200, 200), np.int32), np.zeros((200, 200), np.uint8))
    upright = []
    for seed in range(20):
        torch.manual_seed(seed)
        crop = geometry(0.0, 64, 0.0, 0.3, (1.0, 2.0), turns)(*as_tv(sample))[0].float()
        down, right = (crop[:, -1] - crop[:, 0]).mean(1), (crop[:, :, -1] - crop[:, :, 0]).mean(1)
        upright.append(bool(down[0] > 2 * abs(down[1]) and right[1] > 2 * abs(right[0])))  # crops may be bent
    assert all(upright) if not turns else 0 < sum(upright) < 10


def test_crops_are_turned_and_mirrored_in_all_eight_ways():
    image = np.array([[0, 80], [160, 240]], np.uint8).repeat(32, 0).repeat(32, 1)
    sample = Sample("quarters", np.repeat(image[..., None], 3, axis=2), np.zeros((64, 64), np.int32), image // 255)
    ways = set()
    for seed in range(120):
        torch.manual_seed(seed)
        crop = geometry(0.0, 64, 0.0, 0.0, (1.0, 1.0))(*as_tv(sample))[0]
        ways.add(tuple(crop[0, 16::32, 16::32].flatten().tolist()))
    assert len(ways) == 8


def test_a_crop_lies_anywhere_in_an_image_and_is_mirrored_no_farther_than_it_must_be():
    torch.manual_seed(0)
    zoom, image = ZoomCrop(128, 0.0, 0.0, 0.5, (0.55, 2.5)), torch.zeros(3, 100, 300)
    places = [zoom.make_params([image]) for _ in range(300)]
    for place in places:
        left, above, right, below = place["padding"]
        assert min(place["padding"]) >= 0
        assert place["side"] <= 150
        assert (left + right, above + below) == (0, max(place["side"] - 100, 0))
        assert place["top"] + place["side"] <= 100 + above + below
        assert place["left"] + place["side"] <= 300
    for found in ({p["top"] for p in places}, {p["left"] for p in places}, {p["padding"][1] for p in places}):
        assert len(found) > 15


def test_half_of_the_crops_are_seen_at_their_own_scale_and_half_at_that_of_usual_nuclei():
    torch.manual_seed(0)
    scales = [ZoomCrop(128, 10.0, 20.0, 0.0, (0.5, 4.0))._scale() for _ in range(400)]
    assert set(scales) == {1.0, 2.0}
    assert 150 < scales.count(2.0) < 250


def _interior(labels: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return (ndimage.maximum_filter(labels, 5) == labels) & (ndimage.minimum_filter(labels, 5) == labels)


def test_separate_gives_consecutive_ids_to_connected_pieces():
    instances = torch.zeros(20, 20, dtype=torch.int32)
    instances[0:5, 0:5] = 7
    instances[10:15, 10:15] = 7
    instances[0:5, 10:15] = 3
    instances[19, 19] = 9
    result = separate(instances)
    assert sorted(result.unique().tolist()) == [0, 1, 2, 3]
    assert result[0, 0] != result[12, 12]
    assert result[19, 19] == 0


def test_pieces_of_fewer_than_sixteen_pixels_are_dropped():
    instances = torch.zeros(20, 20, dtype=torch.int32)
    instances[0:4, 0:4] = 2
    instances[10:13, 10:15] = 1
    assert torch.equal(separate(instances) > 0, instances == 2)


def test_stain_jitter_leaves_maps_alone_and_changes_colours():
    torch.manual_seed(0)
    sample = read_folder(golden.TILES, None)[0]
    image, maps = as_tv(sample)
    changed, same = StainJitter(0.3, 0.05)(image, maps)
    assert torch.equal(same, maps)
    assert 1 < float((changed.int() - image.int()).abs().float().mean()) < 100


def test_no_stain_jitter_gives_the_image_back():
    image, _ = as_tv(read_folder(golden.TILES, None)[0])
    assert (StainJitter(0.0, 0.0)(image).int() - image.int()).abs().max() <= 1


def test_a_crop_depends_on_seed_and_number_alone():
    samples = read_folder(golden.TILES, None)
    first, second = (Crops(samples, Augment(), seed=4, length=10) for _ in range(2))
    torch.manual_seed(1)
    a = first[3]
    torch.manual_seed(2)
    second[7]
    b = second[3]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a.image, first[4].image)


def test_samples_are_drawn_in_proportion_to_their_pixels():
    small, large = drawn_sample(50, 60), drawn_sample(100, 120)
    assert Crops([small, large], Augment(), seed=0, length=1).weights.tolist() == [3000, 12_000]


def test_batches_are_whole_begin_where_a_run_goes_on_and_are_divided_among_processes():
    crops = Crops([golden_tile()], Augment(crop=96), seed=0, length=25)
    loaders = [loader(crops, 4, first_step=1, rank=rank, world=2) for rank in (0, 1)]
    assert [list(each.sampler) for each in loaders] == [list(range(8, 25, 2)), list(range(9, 25, 2))]
    assert [len(each) for each in loaders] == [2, 2]


@pytest.mark.parametrize("index", range(6))
def test_crops_of_real_tiles_have_consecutive_instances(index):
    crop = Crops(read_folder(golden.TILES, None), Augment(), seed=0, length=10)[index]
    ids = crop.instances.unique().tolist()
    assert ids == list(range(len(ids)))
    assert crop.image.shape == (3, 256, 256)
    assert torch.isfinite(crop.image).all()


def golden_tile() -> Sample:
    return read_folder(golden.TILES, None)[0]


def test_without_compression_a_crop_is_drawn_as_recipes_without_it_always_drew_it():
    sample = golden_tile()
    crops = Crops([sample], Augment(crop=96, colour=1.0), seed=3, length=4)
    torch.manual_seed(item_seed(3, 1))
    torch.multinomial(torch.ones(1), 1)
    image, maps = geometry(sample.median_diameter(), 96, 20.0, 0.3, (0.55, 2.5))(*as_tv(sample))
    separate(maps[0])
    torch.rand(())  # whether it gets clumps
    assert torch.equal(crops[1].image, normalise(colour(1.0)(image)))


def test_a_compressed_crop_is_the_same_every_time_and_lies_where_it_lay():
    sample = golden_tile()
    lossy = Crops([sample], Augment(crop=96, colour=0.0, compression=1.0), seed=3, length=20)
    for index in range(6):
        first, second = lossy[index], lossy[index]
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
        inside = first.instances > 0
        if 0 < int(inside.sum()) < inside.numel():  # nuclei are darker than what is around them, in place
            assert first.image.mean(0)[inside].mean() < first.image.mean(0)[~inside].mean()


def test_a_crop_comes_as_two_files_hold_it_where_that_is_asked_for():
    [sample] = read_folder(golden.TILES, None)[:1]
    plain = Crops([sample], Augment(crop=96), seed=3, length=6)
    pairs = Crops([sample], Augment(crop=96, pairs=0.5), seed=3, length=6)
    equal = []
    for index in range(6):
        alone, crop = plain[index], pairs[index]
        assert alone.other.shape == (0,)
        assert crop.other.shape == crop.image.shape
        assert torch.equal(alone.instances, crop.instances)
        equal.append(torch.equal(crop.image, crop.other))
        assert equal[-1] == torch.equal(alone.image, crop.image)
    assert 0 < sum(equal) < 6


def test_the_declared_floors_have_what_the_colours_need_and_are_met_here():
    # torchvision adds noise to images of whole numbers from 0.24 on, which goes with torch 2.9.
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, needed in (("torch", "2.9"), ("torchvision", "0.24")):
        floors = re.findall(rf'"{name}>=([\d.]+)"', text)
        assert len(floors) == 2  # of training and of export
        for floor in floors:
            assert Version(needed) <= Version(floor) <= Version(version(name))
    noisy = v2.GaussianNoise(sigma=0.03)(torch.full((3, 8, 8), 99, dtype=torch.uint8))
    assert noisy.dtype == torch.uint8
    assert (noisy != 99).any()
