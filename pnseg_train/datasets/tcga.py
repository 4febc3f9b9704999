"""What Kumar and MoNuSeg share: tiles of TCGA slides (.tif) with Aperio annotations (.xml) of the same name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pnseg_runtime.errors import ImageError
from pnseg_runtime.images import read_image
from pnseg_train.datasets.aperio_xml import read_regions
from pnseg_train.datasets.files import find
from pnseg_train.datasets.polygons import paint_polygons
from pnseg_train.datasets.sample import Sample
from pnseg_train.datasets.samples import Samples
from pnseg_train.datasets.splits import SPLITS, choose

# All tiles are cut at 40×. The resolution tag of the .tif is a printer's and says nothing.
MPP = 0.25

# Organs as the two sets name them, by patient; no patient has two tiles.
KUMAR_ORGANS = {
    "breast": "TCGA-A7-A13E TCGA-A7-A13F TCGA-AR-A1AK TCGA-AR-A1AS TCGA-E2-A1B5 TCGA-E2-A14V",
    "kidney": "TCGA-B0-5711 TCGA-HE-7128 TCGA-HE-7129 TCGA-HE-7130 TCGA-B0-5710 TCGA-B0-5698",
    "liver": "TCGA-18-5592 TCGA-38-6178 TCGA-49-4488 TCGA-50-5931 TCGA-21-5784 TCGA-21-5786",
    "prostate": "TCGA-G9-6336 TCGA-G9-6348 TCGA-G9-6356 TCGA-G9-6363 TCGA-CH-5767 TCGA-G9-6362",
    "bladder": "TCGA-DK-A2I6 TCGA-G2-A2EK",
    "colon": "TCGA-AY-A8YK TCGA-NH-A8F7",
    "stomach": "TCGA-KB-A93J TCGA-RD-A8N9",
}
MONUSEG_TEST_ORGANS = {
    "breast": "TCGA-AC-A2FO TCGA-AO-A0J2",
    "kidney": "TCGA-2Z-A9J9 TCGA-GL-6846 TCGA-IZ-8196",
    "lung": "TCGA-44-2665 TCGA-69-7764",
    "prostate": "TCGA-EJ-A46H TCGA-HC-7209",
    "bladder": "TCGA-CU-A0YN TCGA-ZF-A9R5",
    "colon": "TCGA-A6-6782",
    "brain": "TCGA-FG-A4MU TCGA-HT-8564",
}
ORGAN = {
    patient: organ
    for organs in (KUMAR_ORGANS, MONUSEG_TEST_ORGANS)
    for organ, patients in organs.items()
    for patient in patients.split()
}
KUMAR_30 = tuple(patient for patients in KUMAR_ORGANS.values() for patient in patients.split())
MONUSEG_TEST_14 = tuple(patient for patients in MONUSEG_TEST_ORGANS.values() for patient in patients.split())

_PATIENT = re.compile(r"TCGA-\w{2}-\w{4}")


def patient_of(group: str) -> str:
    """The patient (``TCGA-XX-XXXX``) of a TCGA barcode, which may go on to sample and slide; any other group itself."""
    patient = _PATIENT.match(group)
    return patient[0] if patient else group


class Tile(NamedTuple):
    """A tile's files and its patient (``TCGA-XX-XXXX``)."""

    image: Path
    annotation: Path
    patient: str


def division(train: Collection[str], test: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Patients by split; the last training image of every organ is held out for validation."""
    last_of_organ = {ORGAN[patient]: patient for patient in train}.values()
    return {
        "train": tuple(patient for patient in train if patient not in last_of_organ),
        "val": tuple(last_of_organ),
        "test": tuple(test),
    }


def find_tiles(folder: Path) -> list[Tile]:
    """Pairs of .tif and .xml of one name anywhere below a folder, by name."""
    images = {path.stem: path for pattern in ("**/*.tif", "**/*.tiff") for path in find(folder, pattern)}
    annotations = {path.stem: path for path in find(folder, "**/*.xml") if _PATIENT.search(path.stem)}
    return [
        Tile(images[stem], annotations[stem], _PATIENT.findall(stem)[0])
        for stem in sorted(images.keys() & annotations.keys())
    ]


def splits_present(folder: Path, parts: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The splits of which there are images."""
    patients = {tile.patient for tile in find_tiles(folder)}
    return tuple(split for split in SPLITS if patients & set(parts[split]))


def read_tiles(folder: Path, split: str | None, schemes: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Samples:
    """The tiles of a split that are there; None for all, those of unlisted patients too.

    Raises:
        ImageError: no such split, or none of its tiles is there.
    """
    wanted = None if split is None else choose(folder, schemes, split)
    tiles = [tile for tile in find_tiles(folder) if wanted is None or tile.patient in wanted]
    if not tiles:
        raise ImageError(
            f"{folder}: no image {'' if split is None else f'of the split {split!r} '}found; expected pairs of .tif "
            "and .xml of one name, such as TCGA-A7-A13E-01Z-00-DX1."
        )
    return Samples(partial(_read, tile) for tile in tiles)


def _read(tile: Tile) -> Sample:
    image = read_image(tile.image).pixels
    instances = paint_polygons(read_regions(tile.annotation), image.shape[:2])
    return Sample(
        name=tile.image.stem,
        image=image,
        instances=instances,
        classes=(instances != 0).astype(np.uint8),
        group=tile.patient,
        tissue=ORGAN.get(tile.patient, ""),
        mpp=MPP,
    )
