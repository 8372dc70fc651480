"""Helpers for tests of data sets: the arrays of a valid file, and a check of refusals."""

import numpy as np
import pytest

from jresnet.data.datasets import load_dataset
from jresnet.errors import InputError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def arrays(**changes):
    """The arrays of a valid .npz file, with changes; None drops an array."""
    valid = {
        "train_images": pixels(9, 6, 5, 3),
        "train_labels": np.arange(9) % 3,
        "test_images": pixels(4, 6, 5, 3),
        "test_labels": np.array([2, 0, 1, 1]),
    }
    return {key: value for key, value in (valid | changes).items() if value is not None}


def refused(name, *parts, data_dir=None):
    """Check that loading fails with a message of one line that contains every part, and return it."""
    with pytest.raises(InputError) as caught:
        load_dataset(str(name), data_dir)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message
