"""What scanners and files do to an image moves no map, and is what the runtime undoes."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pnseg_runtime.softening import Blur, soften
from pnseg_train.augment import as_tv
from pnseg_train.datasets import Sample, read_folder
from pnseg_train.scans import CoarseScan, SoftColour, TwoFiles, seen, stored
from tests import golden


def golden_tile() -> Sample:
    return read_folder(golden.TILES, None)[0]


def test_soft_colour_is_the_runtimes_and_leaves_maps_alone():
    image, maps = as_tv(golden_tile())
    soft, same = SoftColour((2.0, 2.0))(image, maps)
    assert torch.equal(same, maps)
    assert np.array_equal(soft.permute(1, 2, 0).numpy(), soften(golden_tile().image, Blur(colour=2.0)))


@pytest.mark.parametrize("file", [stored, seen])
def test_what_a_file_leaves_of_a_crop_moves_no_map(file):
    torch.manual_seed(0)
    image, maps = as_tv(golden_tile())
    changed = 0
    for _ in range(12):
        kept, same = file(1.0)(image, maps)
        assert torch.equal(same, maps)
        assert float((kept.float() - image.float()).abs().mean()) < 12
        changed += not torch.equal(kept, image)
    assert changed >= 4 if file is stored else changed == 12


def test_a_coarse_scan_loses_detail_and_stays_in_place():
    image, maps = as_tv(golden_tile())
    coarse, same = CoarseScan((2.0, 2.0), v2.Identity())(image, maps)
    assert torch.equal(same, maps)
    assert coarse.shape == image.shape

    def detail(pixels: torch.Tensor) -> float:
        return float(pixels.float().diff(dim=-1).abs().mean())

    assert detail(coarse) < 0.8 * detail(image)
    shifts = [float((coarse.float() - image.float().roll(step, -1))[..., 8:-8].abs().mean()) for step in (-1, 0, 1)]
    assert shifts[1] == min(shifts)


def test_a_coarse_scan_of_a_lower_magnification_by_one_is_the_image():
    image, _ = as_tv(golden_tile())
    assert torch.equal(CoarseScan((1.0, 1.0), v2.Identity())(image), image)


def test_two_files_of_an_image_differ_by_less_than_from_it_and_stay_in_place():
    torch.manual_seed(1)
    image, _ = as_tv(golden_tile())
    apart, away = [], []
    for _ in range(8):
        one, other = TwoFiles()(image)
        assert one.shape == other.shape == image.shape
        apart.append(float((one.float() - other.float()).abs().mean()))
        away.append(float((one.float() - image.float()).abs().mean()))
        shifts = [float((other.float() - image.float().roll(s, -1))[..., 8:-8].abs().mean()) for s in (-1, 0, 1)]
        assert shifts[1] == min(shifts)
    assert 0 < np.mean(apart) < np.mean(away)
