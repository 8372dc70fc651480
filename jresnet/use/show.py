"""The figure of `Classifier.show`."""

import math
from collections.abc import Sequence

import numpy as np

from jresnet.errors import InputError
from jresnet.records.picture import Picture
from jresnet.use.figures import drawable

MOST = 100
"""Images in a figure; more could not be told apart."""
_COLUMNS, _SIDE = 8, 1.5  # images in a row; inches of each


def figure(images: np.ndarray, classes: Sequence[str], probabilities: np.ndarray) -> Picture:
    """Draw images, uint8 [n, height, width, 3], each below its most probable class.

    Args:
      images: at least one.
      classes: names in the order of the probabilities.
      probabilities: float [n, classes].

    Raises:
      InputError: there are no images, or more than MOST.
    """
    if not 1 <= len(images) <= MOST:
        found = "none" if len(images) == 0 else f"more than {MOST}"
        raise InputError(f"images: there are {found}: show from 1 to {MOST}, as in images[:{_COLUMNS}]")
    columns = min(len(images), _COLUMNS)
    rows = math.ceil(len(images) / columns)
    drawn = Picture(figsize=(_SIDE * columns, (_SIDE + 0.4) * rows), dpi=120, layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).flatten()
    names = drawable(classes, 20)
    for axes in panels:
        axes.axis("off")
    for axes, image, row in zip(panels, images, probabilities, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"{names[row.argmax()]}\n{row.max():.1%}", fontsize="small", parse_math=False)
    return drawn
