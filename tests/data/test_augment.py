"""Augmentation against torchvision's semantics image by image, and its random numbers against their frequencies.

Both ways to carry it out, in JAX, and with TensorFlow up to gray, are held to the same reference.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jresnet.data.augment import Draws, augment, crop, draw, grayscale, normalise
from jresnet.data.pipeline import tf_crop
from jresnet.data.tfds_reader import import_tensorflow
from tests.support.augmentation import DRAWN, reference, within_4_sigma


def with_tensorflow(images, draws, padding):
    tf = import_tensorflow()
    cut = tf_crop(tf, tf.constant(images), draws.offsets, draws.flips, padding).numpy()
    assert cut.dtype == images.dtype  # bytes stay bytes on their way to the device
    return np.asarray(grayscale(cut, draws.grays))


both_ways = pytest.mark.parametrize("way", [jax.jit(augment, static_argnums=2), with_tensorflow], ids=["jax", "tf"])


def random_images(seed, count, height, width):
    # No zeros among the pixels, so that padding cannot pass for image.
    return np.random.default_rng(seed).integers(1, 256, size=(count, height, width, 3), dtype=np.uint8)


@both_ways
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    padding=st.integers(0, 8),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
@example(seed=0, size=(1, 1), padding=8, dtype=np.uint8)
@example(seed=0, size=(3, 40), padding=0, dtype=np.float32)
def test_a_batch_is_augmented_as_each_image_alone(way, seed, size, padding, dtype):
    rng = np.random.default_rng(seed)
    count = 8
    images = random_images(seed, count, *size).astype(dtype)
    offsets = rng.integers(2 * padding, size=(count, 2), endpoint=True).astype(np.int32)
    flips, grays = rng.random((2, count)) < 0.5
    flips[:4], grays[:4] = [False, True, False, True], [False, False, True, True]  # each way at least once
    found = way(images, Draws(offsets, flips, grays), padding)
    expected = [reference(*one, padding) for one in zip(images, offsets, flips, grays, strict=True)]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-4)


# torchvision 0.29.1 (torch 2.14.1) of the two images below, on float tensors from 0 to 1, times 255:
# pad(2), crop at (0, 3), hflip, rgb_to_grayscale; and pad(2), crop at (4, 1), hflip.
# On PIL images its gray is rounded to whole levels, and on uint8 tensors cut off to them; here it is neither.
TORCHVISION_GRAY = [
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [0, 69.8094, 102.9829, 119.7725, 125.3318],
    [0, 60.8795, 92.6602, 82.5621, 156.8472],
    [0, 196.1634, 116.8088, 142.2436, 227.2702],
    [0, 220.8198, 60.2783, 84.0607, 144.1208],
]
TORCHVISION_COLOUR = [
    [[163, 192, 95], [49, 69, 169], [117, 85, 48], [23, 207, 141], [0, 0, 0]],
    [[205, 112, 231], [131, 98, 42], [162, 48, 93], [113, 178, 36], [0, 0, 0]],
    [[121, 98, 62], [23, 187, 130], [43, 186, 127], [0, 138, 114], [0, 0, 0]],
    [[41, 58, 193], [50, 155, 14], [227, 148, 209], [195, 82, 174], [0, 0, 0]],
    [[0, 0, 0]] * 5,
    [[0, 0, 0]] * 5,
]


@both_ways
def test_torchvisions_own_values(way):
    images = np.random.RandomState(0).randint(0, 256, (2, 6, 5, 3)).astype(np.uint8)
    draws = Draws(np.array([[0, 3], [4, 1]], np.int32), np.array([True, True]), np.array([True, False]))
    gray, colour = np.asarray(way(images, draws, 2))
    np.testing.assert_allclose(gray, np.stack([TORCHVISION_GRAY] * 3, -1), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(colour, TORCHVISION_COLOUR)


@both_ways
def test_the_order_is_crop_then_flip(way):
    """Shifted to the left by one and then mirrored, the column of zeros stands on the left; gray goes with either."""
    images = random_images(0, 1, 4, 4)
    draws = Draws(np.array([[1, 2]], np.int32), np.array([True]), np.array([False]))
    (found,) = np.asarray(way(images, draws, 1))
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_array_equal(found[:, 1:], images[0, :, :0:-1])


def test_the_outermost_crops_reach_the_corners_of_the_border():
    images = random_images(1, 3, 4, 5)
    found = np.asarray(crop(images, np.array([[0, 0], [4, 4], [2, 2]], np.int32), 2))
    expected = np.zeros_like(images)
    expected[0, 2:, 2:] = images[0, :2, :3]
    expected[1, :2, :3] = images[1, 2:, 2:]
    expected[2] = images[2]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("padding", [1, 4])
def test_every_offset_is_equally_likely(padding):
    offsets = np.asarray(draw(jax.random.key(0), DRAWN, padding, 0.5, 0.5).offsets)
    assert (offsets.shape, offsets.dtype) == ((DRAWN, 2), np.int32)
    places = 2 * padding + 1
    for axis in offsets.T:
        counts = np.bincount(axis, minlength=places)
        assert len(counts) == places
        assert all(within_4_sigma(count, DRAWN, 1 / places) for count in counts)
    # Rows and columns are drawn apart: every pair is equally likely too.
    pairs = np.bincount(offsets @ [places, 1], minlength=places**2)
    assert all(within_4_sigma(count, DRAWN, 1 / places**2) for count in pairs)


@pytest.mark.parametrize(("flip", "grayscale"), [(0.5, 0.5), (0.5, 0.1), (0.0, 1.0), (1.0, 0.0), (0.3, 0.9)])
def test_flips_and_grays_have_their_probabilities_and_are_independent(flip, grayscale):
    drawn = draw(jax.random.key(1), DRAWN, 4, flip, grayscale)
    flips, grays = np.asarray(drawn.flips), np.asarray(drawn.grays)
    assert flips.dtype == grays.dtype == bool
    assert within_4_sigma(flips.sum(), DRAWN, flip)
    assert within_4_sigma(grays.sum(), DRAWN, grayscale)
    assert within_4_sigma((flips & grays).sum(), DRAWN, flip * grayscale)
    assert within_4_sigma((flips & (drawn.offsets[:, 0] == 0)).sum(), DRAWN, flip / 9)
    assert within_4_sigma((grays & (drawn.offsets[:, 1] == 8)).sum(), DRAWN, grayscale / 9)


def test_draws_follow_from_the_key():
    first, again, other = (draw(jax.random.key(key), 50, 4, 0.5, 0.5) for key in (0, 0, 1))
    for mine, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(mine, same)
        assert not np.array_equal(mine, different)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalise_equals_float64(dtype):
    pixels = np.arange(256 * 3).reshape(8, 8, 4, 3).astype(np.uint8).astype(dtype)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    found = normalise(jnp.asarray(pixels), mean, std)
    assert found.dtype == jnp.float32
    expected = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_padding_is_black_before_normalisation():
    """As in torchvision, where ToTensor and Normalize come last: a padded pixel is -mean / std, not 0."""
    draws = Draws(np.zeros((1, 2), np.int32), np.array([False]), np.array([False]))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    found = normalise(augment(random_images(2, 1, 4, 4), draws, 1), mean, std)
    np.testing.assert_allclose(found[0, 0, 0], [-2, -2, -2], rtol=1e-6)
