"""Datasets in the layout people download them, all giving the same :class:`Sample`."""

from pnseg_train.datasets.folder import read_folder
from pnseg_train.datasets.layouts import LAYOUTS, Layout, layout_of, open_dataset, other_classes
from pnseg_train.datasets.sample import Sample, SizeMismatchError
from pnseg_train.datasets.samples import Samples

__all__ = [
    "LAYOUTS",
    "Layout",
    "Sample",
    "Samples",
    "SizeMismatchError",
    "layout_of",
    "open_dataset",
    "other_classes",
    "read_folder",
]
