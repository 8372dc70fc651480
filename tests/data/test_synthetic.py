import hashlib

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jresnet.data import synthetic

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


def test_seed_decides_everything():
    first, again, other = (synthetic.draw(30, 20, seed=seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[2], other[2])


def test_test_set_is_not_the_training_set_and_does_not_depend_on_its_size(drawn):
    images, _, test_images, test_labels = drawn
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in test_images}
    _, _, same_images, same_labels = synthetic.draw(10, TEST)
    assert np.array_equal(same_images, test_images) and np.array_equal(same_labels, test_labels)


@pytest.mark.parametrize("count", [10, 25, 999])
def test_classes_are_balanced_and_mixed(count):
    labels = synthetic.draw(count, 0)[1]
    counts = np.bincount(labels, minlength=len(synthetic.CLASSES))
    assert counts.max() - counts.min() <= 1 and counts.sum() == count
    assert (np.diff(labels) < 0).any()


@pytest.mark.parametrize("size", [16, 28, 33, 64])
def test_other_sizes(size):
    images, labels, _, _ = synthetic.draw(40, 0, image_size=size)
    assert images.shape == (40, size, size, 3)
    assert images.std(axis=(1, 2, 3)).min() > 5
    assert set(labels) == set(range(10))


def test_colour_and_brightness_tell_nothing(drawn):
    """The classes' mean colours differ no more than chance has it."""
    images, labels, _, _ = drawn
    colours = images.mean(axis=(1, 2))
    means = np.stack([colours[labels == label].mean(axis=0) for label in range(10)])
    standard_error = colours.std(axis=0) / np.sqrt(TRAIN / 10)
    assert (abs(means - colours.mean(axis=0)) < 4 * standard_error).all()


def test_shapes_survive_gray(drawn):
    """Every image's two levels stay apart in gray, by the weights that the augmentation uses."""
    gray = drawn[0] @ np.array([0.2989, 0.587, 0.114])
    spread = np.quantile(gray, 0.98, axis=(1, 2)) - np.quantile(gray, 0.02, axis=(1, 2))
    assert spread.min() > 30


def test_shapes_are_mirror_images_of_themselves():
    """On a grid symmetric about the centre, flipping left and right leaves every shape as it is."""
    radius, thickness = np.array([[[24]]]), np.array([[[6]]])
    offsets = np.arange(-31, 32, 2)
    for name in synthetic.CLASSES:
        mask = synthetic._shape(name, offsets[None, :, None], offsets[None, None, :], radius, thickness)
        flipped = mask[..., ::-1]
        if name in ("vertical stripes", "checkerboard"):
            # Their phase moves, as it does between two images of the class.
            assert abs(mask.sum() - flipped.sum()) == 0
            assert np.array_equal(mask.any(axis=2), flipped.any(axis=2))
        else:
            assert np.array_equal(mask, flipped), name


def test_a_linear_classifier_fails(drawn):
    """Multinomial logistic regression stays far below 60 %, regularised much or little."""
    images, labels, test_images, test_labels = drawn
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    x, x_test = (((i - mean) / std).reshape(len(i), -1).astype(np.float32) for i in (images, test_images))
    fitted, accuracies = [], []
    for decay in (1.0, 0.1):
        weights = _logistic_regression(x, labels, decay)
        fitted.append(((x @ weights).argmax(axis=1) == labels).mean())
        accuracies.append(((x_test @ weights).argmax(axis=1) == test_labels).mean())
    assert max(fitted) > 0.55
    assert 0.15 < max(accuracies) < 0.45


def _logistic_regression(x, labels, decay):
    """Weights [features, 10] that minimise the mean cross entropy + decay / 2 * |weights|^2."""
    targets = np.eye(10, dtype=np.float32)[labels]

    def loss_and_gradient(flat):
        weights = flat.reshape(-1, 10).astype(np.float32)
        logits = x @ weights
        log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        loss = -(targets * log_p).sum() / len(x) + decay / 2 * (flat**2).sum()
        return loss, (x.T @ (np.exp(log_p) - targets) / len(x)).ravel().astype(np.float64) + decay * flat

    start = np.zeros(x.shape[1] * 10)
    result = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 40})
    return result.x.reshape(-1, 10).astype(np.float32)
