"""Kumar: 30 H&E tiles of 1000² px at 40× from seven organs (Kumar et al. 2017).

The 16 training images are those of Kumar et al., as in the paper's Table 4 (scheme ``kumar``, the
default), or those of HoVer-Net (scheme ``hovernet``). ``train`` is what remains when one image of
each organ is held out as ``val``; all 16 are ``train+val``.
"""

from __future__ import annotations

from pathlib import Path

from pnseg_train.datasets import tcga
from pnseg_train.datasets.samples import Samples

CLASSES = ("nucleus",)

_TRAIN = {
    "kumar": (
        "TCGA-A7-A13E TCGA-A7-A13F TCGA-AR-A1AK TCGA-AR-A1AS TCGA-B0-5711 TCGA-HE-7128 TCGA-HE-7129 TCGA-HE-7130 "
        "TCGA-18-5592 TCGA-38-6178 TCGA-49-4488 TCGA-50-5931 TCGA-G9-6336 TCGA-G9-6348 TCGA-G9-6356 TCGA-G9-6363"
    ),
    "hovernet": (
        "TCGA-A7-A13E TCGA-AR-A1AK TCGA-AR-A1AS TCGA-E2-A14V TCGA-B0-5711 TCGA-HE-7128 TCGA-HE-7129 TCGA-HE-7130 "
        "TCGA-18-5592 TCGA-38-6178 TCGA-50-5931 TCGA-21-5784 TCGA-G9-6348 TCGA-G9-6356 TCGA-G9-6363 TCGA-G9-6362"
    ),
}
SCHEMES = {
    name: tcga.division(train.split(), [patient for patient in tcga.KUMAR_30 if patient not in train])
    for name, train in _TRAIN.items()
}


def recognises(folder: Path) -> bool:
    """Whether tiles of the 30 patients are there, and none of MoNuSeg's test images."""
    patients = {tile.patient for tile in tcga.find_tiles(folder)}
    return not patients.isdisjoint(tcga.KUMAR_30) and patients.isdisjoint(tcga.MONUSEG_TEST_14)


def splits(folder: Path) -> tuple[str, ...]:
    """The splits of which there are images."""
    return tcga.splits_present(folder, SCHEMES["kumar"])


def read(folder: Path, split: str | None = None) -> Samples:
    """The tiles of ``train``, ``val`` or ``test``, ``hovernet:train`` …; None for all.

    Raises:
        ImageError: no such split, or none of its images is there.
    """
    return tcga.read_tiles(folder, split, SCHEMES)
