"""Crops, turns, flips and scaling move image, instances, classes and points alike, to the pixel.

The images are ramps: red and green of a pixel say which column and row it came from. The maps hold
the same numbers, so what went astray shows in every pixel, with its direction.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from pnseg_train.augment import QuarterTurn, ZoomCrop, geometry, nearest
from pnseg_train.targets import centroids, pixels_by_nucleus

SIDES = st.integers(40, 200)


def ramps(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image (3, H, W) float32 and maps (2, H, W) int32 of each pixel's own x and y."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([xs, ys, torch.zeros_like(xs)]).float()
    return tv_tensors.Image(image), tv_tensors.Mask(torch.stack([xs, ys]).int())


def apart(image: Tensor, maps: Tensor) -> Tensor:
    """(2, h, w) how far the maps' origin of a pixel lies from the image's, px of the source."""
    return maps.as_subclass(Tensor).float() - image.as_subclass(Tensor)[:2]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), SIDES, SIDES)
def test_turns_and_flips_move_every_pixel_of_image_and_maps_alike(seed, height, width):
    torch.manual_seed(seed)
    move = v2.Compose([QuarterTurn(), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])
    assert not apart(*move(*ramps(height, width))).any()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), SIDES, SIDES, st.integers(16, 128))
def test_a_crop_at_the_images_own_scale_moves_no_pixel_and_mirrors_both_alike(seed, height, width, size):
    assume(size <= 1.5 * min(height, width))  # smaller images are enlarged rather than mirrored more
    torch.manual_seed(seed)
    crop = ZoomCrop(size, 20.0, 20.0, spread=0.0, limits=(1.0, 1.0))
    image, maps = crop(*ramps(height, width))
    assert maps.shape == (2, size, size)
    assert not apart(image, maps).any()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.4, 2.5))
def test_scaling_moves_maps_by_less_than_a_pixel_and_by_none_on_average(seed, scale):
    assume(abs(scale - 0.5) > 0.02)  # at half the scale centres fall on a border, of which the later pixel is taken
    torch.manual_seed(seed)
    image, maps = ZoomCrop(97, 20.0, 20.0, spread=0.0, limits=(scale, scale))(*ramps(300, 320))
    # Away from the border, where the image's interpolation has pixels on both sides. A map has whole pixels only.
    off = apart(image, maps)[:, 6:-6, 6:-6]
    assert float(off.abs().max()) <= 0.5 + 1e-3
    assert abs(float(off.mean())) < 0.05


@pytest.mark.parametrize(("side", "size"), [(257, 256), (511, 256), (128, 256), (466, 256), (103, 256)])
def test_a_resized_map_lies_where_the_image_lies(side, size):
    ramp = torch.arange(side, dtype=torch.int32).expand(1, side, side)
    ideal = (torch.arange(size) + 0.5) * side / size - 0.5
    error = nearest(ramp, size)[0, 0] - ideal
    assert float(error.abs().max()) <= 0.5 + 1e-3
    assert abs(float(error.mean())) < 0.01


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_classes_stay_those_of_their_instances_through_all_of_the_geometry(seed):
    torch.manual_seed(seed)
    instances = torch.randint(0, 30, (1, 25, 25), dtype=torch.int32).repeat_interleave(8, 1).repeat_interleave(8, 2)
    class_of = torch.randint(1, 6, (30,), dtype=torch.int32)
    class_of[0] = 0
    image = (instances * 8).to(torch.uint8).expand(3, -1, -1).contiguous()
    maps = torch.cat([instances, class_of[instances.long()]])
    _, moved = geometry(8.0, 128, 20.0, 0.3, (0.55, 2.5))(tv_tensors.Image(image), tv_tensors.Mask(maps))
    assert torch.equal(class_of[moved[0].long()], moved[1].as_subclass(Tensor))


def square_nuclei(size: int = 96) -> Tensor:
    instances = torch.zeros(1, size, size, dtype=torch.int32)
    for value, (x, y, side) in enumerate([(10, 14, 6), (40, 30, 9), (70, 60, 12), (20, 75, 5)], start=1):
        instances[0, y : y + side, x : x + side] = value
    return instances


def points_of(instances: Tensor) -> Tensor:
    return centroids(pixels_by_nucleus(instances.as_subclass(Tensor)[0].long()))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flipped", [False, True])
def test_the_points_of_turned_and_flipped_maps_are_the_turned_and_flipped_points(turns, flipped):
    size, instances = 96, square_nuclei()
    moved = torch.rot90(instances, turns, (-2, -1))
    moved = moved.flip(-1) if flipped else moved
    x, y = points_of(instances).T
    for _ in range(turns):
        x, y = y, size - 1 - x
    x = size - 1 - x if flipped else x
    np.testing.assert_allclose(points_of(moved), torch.stack([x, y], 1), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(24, 300))
def test_the_points_of_a_scaled_map_are_the_scaled_points(size):
    instances = square_nuclei()
    scaled = nearest(instances, size)
    assume(len(scaled.unique()) == 5)
    factor = size / instances.shape[-1]
    expected = (points_of(instances) + 0.5) * factor - 0.5
    # A whole row or column more or less at one side moves the mean by half of it.
    assert float((points_of(scaled) - expected).abs().max()) <= 0.5 + 1e-3
