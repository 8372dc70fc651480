"""The synthetic data set: golden pixels, balance, and classes that only shapes distinguish."""

import hashlib

import numpy as np
import pytest
import scipy.linalg

from jresnet.data import synthetic
from jresnet.data.augment import GRAY_WEIGHTS

TRAIN, TEST = 3000, 1000


@pytest.fixture(scope="module")
def drawn():
    return synthetic.draw(TRAIN, TEST)


def test_shapes_and_dtypes(drawn):
    images, labels, test_images, test_labels = drawn
    assert images.shape == (TRAIN, 32, 32, 3) and test_images.shape == (TEST, 32, 32, 3)
    assert labels.shape == (TRAIN,) and test_labels.shape == (TEST,)
    assert images.dtype == test_images.dtype == np.uint8
    assert labels.dtype == test_labels.dtype == np.int32


def test_golden_pixels(drawn):
    digest = hashlib.sha256()
    for array in drawn:
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    assert digest.hexdigest() == "55e453cabde2d156bd3d95bae48105447b72f0c3f73ff3a46a36863bc0d648e3"


def test_draws_depend_on_the_seed_alone():
    first, again, other = (synthetic.draw(30, 20, seed=seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[2], other[2])


def test_the_test_set_has_no_training_image_and_does_not_depend_on_their_number(drawn):
    images, _, test_images, test_labels = drawn
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in test_images}
    _, _, same_images, same_labels = synthetic.draw(10, TEST)
    assert np.array_equal(same_images, test_images) and np.array_equal(same_labels, test_labels)


@pytest.mark.parametrize("count", [10, 25, 999])
def test_classes_are_balanced_and_shuffled(count):
    labels = synthetic.draw(count, 0)[1]
    counts = np.bincount(labels, minlength=len(synthetic.CLASSES))
    assert counts.max() - counts.min() <= 1 and counts.sum() == count
    assert (np.diff(labels) < 0).any()


@pytest.mark.parametrize("size", [16, 28, 33, 64])
def test_other_image_sizes(size):
    images, labels, _, _ = synthetic.draw(40, 0, image_size=size)
    assert images.shape == (40, size, size, 3)
    assert images.std(axis=(1, 2, 3)).min() > 5
    assert set(labels) == set(range(10))


def test_mean_colours_do_not_depend_on_the_class(drawn):
    images, labels, _, _ = drawn
    colours = images.mean(axis=(1, 2))
    means = np.stack([colours[labels == label].mean(axis=0) for label in range(10)])
    standard_error = colours.std(axis=0) / np.sqrt(TRAIN / 10)
    assert (abs(means - colours.mean(axis=0)) < 4 * standard_error).all()


def test_foreground_and_background_differ_in_grayscale(drawn):
    gray = drawn[0] @ np.array(GRAY_WEIGHTS)
    spread = np.quantile(gray, 0.98, axis=(1, 2)) - np.quantile(gray, 0.02, axis=(1, 2))
    assert spread.min() > 30


def test_shapes_are_symmetric_under_horizontal_flips():
    radius, thickness = np.array([[[24]]]), np.array([[[6]]])
    offsets = np.arange(-31, 32, 2)
    for name in synthetic.CLASSES:
        mask = synthetic._shape(name, offsets[None, :, None], offsets[None, None, :], radius, thickness)
        flipped = mask[..., ::-1]
        if name in ("vertical stripes", "checkerboard"):
            # Only their phase changes, as it does between images of the class.
            assert mask.sum() == flipped.sum()
            assert np.array_equal(mask.any(axis=2), flipped.any(axis=2))
        else:
            assert np.array_equal(mask, flipped), name


def test_a_linear_classifier_fails(drawn):
    """Ridge regression on one-hot labels fits the training images but not the test images."""
    images, labels, test_images, test_labels = drawn[0][:2000], drawn[1][:2000], *drawn[2:]
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    x, x_test = (((i - mean) / std).reshape(len(i), -1).astype(np.float32) for i in (images, test_images))
    # In the dual form: as many unknowns per class as images, which are fewer than pixels.
    gram, targets = x @ x.T, np.eye(10, dtype=np.float32)[labels]
    dual = scipy.linalg.solve(gram + 3e3 * np.eye(len(x), dtype=np.float32), targets, assume_a="pos")
    assert ((gram @ dual).argmax(axis=1) == labels).mean() > 0.55
    assert 0.15 < ((x_test @ x.T @ dual).argmax(axis=1) == test_labels).mean() < 0.45
