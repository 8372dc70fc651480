"""`Contents`: what the readers of data sets return, whatever the source."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jresnet.data.mapped import Images

Arrays = Mapping[str, tuple[Images, np.ndarray]]
"""Images and labels as stored, by split: those of "train", "validation" and "test" that the source has."""


SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Name of a split as people write it, in lower case -> the split."""


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """The contents of a data set as stored; `jresnet.data.checks` validates them.

    Attributes:
      splits: images and labels by split.
      classes: class names, indexed by the labels; None if the source has none.
      columns: how many columns the labels had, if they were one-hot: so many classes they declare; else None.
      skipped: files that are not readable images, relative to the data set, if the source was read without them.
      names: of the images of a split, if they have names: the paths of their files, relative to the data set.
    """

    splits: Arrays
    classes: tuple[str, ...] | None
    skipped: tuple[str, ...] = ()
    columns: int | None = None
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
