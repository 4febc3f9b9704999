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

from pnseg_train.augment import StainJitter, as_tv, colour, geometry, separate
from pnseg_train.crops import Crops, item_seed, normalise
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
