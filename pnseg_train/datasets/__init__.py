"""Datasets in the layout people download them, all giving the same :class:`Sample`."""

from pnseg_train.datasets.folder import read_folder
from pnseg_train.datasets.sample import Sample

__all__ = ["Sample", "read_folder"]
