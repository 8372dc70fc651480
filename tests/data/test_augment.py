"""Augmentation compared with torchvision's semantics image by image, and the frequencies of the random draws.

Both implementations, in JAX and in TensorFlow, are compared with the same reference.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from jresnet.config import Config
from jresnet.data.augment import (
    Augmentations,
    Draws,
    alternating_flips,
    augment,
    augment_levels,
    crop,
    cut_out,
    draw,
    grayscale,
    normalise,
)
from jresnet.data.policies import RANDAUGMENT, TRIVIALAUGMENT
from jresnet.data.tf_augment import tf_augment, tf_augment_levels
from jresnet.data.tfds_reader import import_tensorflow
from tests.support.augmentation import DRAWN, cut_out_reference, reference, refused_while_tracing, within_4_sigma


def with_tensorflow(images, draws, padding):
    tf = import_tensorflow()
    return tf_augment(tf, tf.constant(images), *draws[:3], padding).numpy()


REPORTED = Augmentations(0.5, 0.5, 4)
jitted = jax.jit(augment, static_argnums=2)
both_implementations = pytest.mark.parametrize("implementation", [jitted, with_tensorflow], ids=["jax", "tf"])


def random_images(seed, count, height, width):
    # No pixel is zero, so that padding cannot be mistaken for image.
    return np.random.default_rng(seed).integers(1, 256, size=(count, height, width, 3), dtype=np.uint8)


# TensorFlow's batches are also compared with JAX's in test_pipeline.py.
@pytest.mark.parametrize(
    "implementation", [jitted, pytest.param(with_tensorflow, marks=pytest.mark.slow)], ids=["jax", "tf"]
)
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    padding=st.integers(0, 8),
)
@example(seed=0, size=(1, 1), padding=8)
@example(seed=0, size=(3, 40), padding=0)
def test_a_batch_equals_the_reference_image_by_image(implementation, seed, size, padding):
    rng = np.random.default_rng(seed)
    count = 8
    images = random_images(seed, count, *size)
    offsets = rng.integers(2 * padding, size=(count, 2), endpoint=True).astype(np.int32)
    flips, grays = rng.random((2, count)) < 0.5
    flips[:4], grays[:4] = [False, True, False, True], [False, False, True, True]  # every combination
    augmented = implementation(images, Draws(offsets, flips, grays), padding)
    expected = [reference(*image, padding) for image in zip(images, offsets, flips, grays, strict=True)]
    assert augmented.dtype == np.float32
    np.testing.assert_allclose(augmented, np.stack(expected), rtol=0, atol=1e-4)


# Results of torchvision 0.29.1 (torch 2.14.1) for the two images below, on float tensors from 0 to 1, times 255:
# pad(2), crop at (0, 3), hflip, rgb_to_grayscale; and pad(2), crop at (4, 1), hflip.
# For PIL images torchvision rounds gray levels, and for uint8 tensors it truncates them; here they stay as they are.
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


@both_implementations
def test_values_computed_by_torchvision(implementation):
    images = np.random.RandomState(0).randint(0, 256, (2, 6, 5, 3)).astype(np.uint8)
    draws = Draws(np.array([[0, 3], [4, 1]], np.int32), np.array([True, True]), np.array([True, False]))
    gray, colour = np.asarray(implementation(images, draws, 2))
    np.testing.assert_allclose(gray, np.stack([TORCHVISION_GRAY] * 3, -1), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(colour, TORCHVISION_COLOUR)


@both_implementations
def test_the_order_is_crop_then_flip(implementation):
    """An image shifted to the left by one pixel and then flipped has its column of zeros on the left."""
    images = random_images(0, 1, 4, 4)
    draws = Draws(np.array([[1, 2]], np.int32), np.array([True]), np.array([False]))
    (augmented,) = np.asarray(implementation(images, draws, 1))
    np.testing.assert_array_equal(augmented[:, 0], 0)
    np.testing.assert_array_equal(augmented[:, 1:], images[0, :, :0:-1])


def levels_with_tensorflow(images, draws, padding):
    tf = import_tensorflow()
    return tf_augment_levels(tf, tf.constant(images), *draws[:3], padding).numpy()


@pytest.mark.parametrize(
    "implementation", [jax.jit(augment_levels, static_argnums=2), levels_with_tensorflow], ids=["jax", "tf"]
)
def test_whole_levels_are_those_of_augment_rounded_as_pillow_does(implementation):
    rng = np.random.default_rng(0)
    images = random_images(0, 40, 30, 20)
    flips, grays = rng.random((2, 40)) < 0.5
    draws = Draws(rng.integers(0, 5, (40, 2), np.int32), flips, grays)
    levels = np.asarray(implementation(images, draws, 2))
    assert levels.dtype == np.uint8
    colour = np.asarray(jitted(images, draws._replace(grays=np.zeros(40, bool)), 2)).astype(np.uint8)
    gray = np.stack([np.stack([np.asarray(Image.fromarray(image).convert("L"))] * 3, -1) for image in colour])
    np.testing.assert_array_equal(levels, np.where(grays[:, None, None, None], gray, colour))


def test_the_outermost_crops_reach_the_corners_of_the_padded_image():
    images = random_images(1, 3, 4, 5)
    cropped = np.asarray(crop(images, np.array([[0, 0], [4, 4], [2, 2]], np.int32), 2))
    expected = np.zeros_like(images)
    expected[0, 2:, 2:] = images[0, :2, :3]
    expected[1, :2, :3] = images[1, 2:, 2:]
    expected[2] = images[2]
    assert cropped.dtype == np.uint8
    np.testing.assert_array_equal(cropped, expected)


def test_x64_does_not_change_the_augmented_images():
    images, draws = random_images(1, 3, 4, 5), draw(jax.random.key(0), 3, Augmentations(0.5, 0.5, 2))
    expected = jitted(images, draws, 2)
    with jax.enable_x64():
        augmented = jitted(images, draws, 2)
    assert augmented.dtype == expected.dtype == jnp.float32
    np.testing.assert_array_equal(augmented, expected)


@pytest.mark.parametrize("padding", [1, 4])
def test_every_offset_is_equally_likely(padding):
    offsets = np.asarray(draw(jax.random.key(0), DRAWN, Augmentations(0.5, 0.5, padding)).offsets)
    assert (offsets.shape, offsets.dtype) == ((DRAWN, 2), np.int32)
    values = 2 * padding + 1
    for axis in offsets.T:
        counts = np.bincount(axis, minlength=values)
        assert len(counts) == values
        assert all(within_4_sigma(count, DRAWN, 1 / values) for count in counts)
    # Rows and columns are independent: every pair is equally likely too.
    pairs = np.bincount(offsets @ [values, 1], minlength=values**2)
    assert all(within_4_sigma(count, DRAWN, 1 / values**2) for count in pairs)


@pytest.mark.parametrize(("flip", "grayscale"), [(0.5, 0.5), (0.5, 0.1), (0.0, 1.0), (1.0, 0.0), (0.3, 0.9)])
def test_flips_and_grays_have_their_probabilities_and_are_independent(flip, grayscale):
    offsets, flips, grays = map(np.asarray, draw(jax.random.key(1), DRAWN, Augmentations(flip, grayscale, 4))[:3])
    assert flips.dtype == grays.dtype == bool
    assert within_4_sigma(flips.sum(), DRAWN, flip)
    assert within_4_sigma(grays.sum(), DRAWN, grayscale)
    assert within_4_sigma((flips & grays).sum(), DRAWN, flip * grayscale)
    assert within_4_sigma((flips & (offsets[:, 0] == 0)).sum(), DRAWN, flip / 9)
    assert within_4_sigma((grays & (offsets[:, 1] == 8)).sum(), DRAWN, grayscale / 9)


def test_draws_depend_on_the_key_alone():
    first, again, other = (draw(jax.random.key(key), 50, REPORTED) for key in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert not any(np.array_equal(*pair) for pair in zip(first[:3], other[:3], strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalise_equals_a_float64_reference(dtype):
    pixels = np.arange(256 * 3).reshape(8, 8, 4, 3).astype(np.uint8).astype(dtype)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    normalised = normalise(jnp.asarray(pixels), mean, std)
    assert normalised.dtype == jnp.float32
    expected = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-6)


def test_padding_is_black_before_normalisation():
    """As in torchvision, where ToTensor and Normalize come last, padding becomes -mean / std, not 0."""
    draws = Draws(np.zeros((1, 2), np.int32), np.array([False]), np.array([False]))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    normalised = normalise(jitted(random_images(2, 1, 4, 4), draws, 1), mean, std)
    np.testing.assert_allclose(normalised[0, 0, 0], [-2, -2, -2], rtol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7])
def test_cutout_equals_a_loop_over_the_pixels_of_the_square(side):
    """Centres everywhere, the corners among them, at the pixels' first and last points."""
    height, width = 5, 7
    rows, columns = np.indices((height, width)).reshape(2, -1)
    images = np.random.default_rng(side).normal(size=(len(rows), height, width, 3)).astype(np.float32)
    expected = [cut_out_reference(*case, side) for case in zip(images, rows, columns, strict=True)]
    for within in (1e-6, 1 - 1e-6):
        centres = np.stack([(rows + within) / height, (columns + within) / width], -1).astype(np.float32)
        np.testing.assert_array_equal(cut_out(jnp.asarray(images), jnp.asarray(centres), side), np.stack(expected))


def test_cutouts_centre_is_any_pixel_alike():
    draws = jax.jit(draw, static_argnums=1)(jax.random.key(3), DRAWN, Augmentations(0.5, 0.5, 4, cutout=1))
    images = jnp.ones((DRAWN, 3, 7, 3), jnp.float32)
    found = np.asarray(jax.jit(cut_out, static_argnums=2)(images, draws.centres, 1))[..., 0] == 0
    assert (found.sum((1, 2)) == 1).all()
    assert all(within_4_sigma(count, DRAWN, 1 / 21) for count in found.sum(0).reshape(-1))
    # It has a key of its own.
    assert within_4_sigma((found[:, 0].any(-1) & np.asarray(draws.flips)).sum(), DRAWN, 1 / 6)


@pytest.mark.slow
def test_alternating_flips_are_a_coin_per_image_turned_over_in_every_epoch():
    key = jax.random.key(7)
    epochs = [np.asarray(alternating_flips(key, 1000, epoch)) for epoch in range(4)]
    for image in range(1000):
        first = epochs[0][image]
        assert [epoch[image] for epoch in epochs] == [first, not first, first, not first]
    assert within_4_sigma(epochs[0].sum(), 1000, 0.5)
    # A function of the key and the image's place alone.
    np.testing.assert_array_equal(alternating_flips(key, 300, 0), epochs[0][:300])
    assert within_4_sigma((np.asarray(alternating_flips(jax.random.key(8), 1000, 0)) != epochs[0]).sum(), 1000, 0.5)


def test_augmentations_are_those_of_the_configuration():
    assert Augmentations.of(Config()) == REPORTED
    config = Config(crop_padding=2, grayscale=0.25, alternate_flip=True, cutout=8, mixup=0.25, cutmix=0.75)
    expected = Augmentations(0.5, 0.25, 2, alternate_flip=True, cutout=8, mixup=0.25, cutmix=0.75)
    assert Augmentations.of(config) == expected
    assert Augmentations.of(Config(trivialaugment=True)) == Augmentations(0.5, 0.5, 4, space=TRIVIALAUGMENT)
    expected = Augmentations(0.5, 0.5, 4, space=RANDAUGMENT, operators=3, magnitude=9)
    assert Augmentations.of(Config(randaugment=(3, 9))) == expected


IMAGES, COINS, OFFSETS = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, bool), np.zeros((2, 2), np.int32)
MEAN = np.zeros(3)
REFUSED = {
    "float images": (
        lambda: augment(np.float32(IMAGES), Draws(OFFSETS, COINS, COINS), 1),
        "float32",
        "uint8",
        "images",
    ),
    "one image": (lambda: augment(IMAGES[0], Draws(OFFSETS, COINS, COINS), 1), "(4, 4, 3)", "images"),
    "gray images": (lambda: augment(IMAGES[..., :1], Draws(OFFSETS, COINS, COINS), 0), "(2, 4, 4, 1)", "images"),
    "integer flips": (lambda: augment(IMAGES, Draws(OFFSETS, np.int32(COINS), COINS), 0), "int32", "bool", "flips"),
    "too few flips": (lambda: augment(IMAGES, Draws(OFFSETS, COINS[:1], COINS), 0), "(1,)", "expected (2)", "flips"),
    "images of crop": (lambda: crop(np.int32(IMAGES), OFFSETS, 1), "int32", "uint8", "images"),
    "wide offsets": (lambda: crop(IMAGES, np.int64(OFFSETS), 1), "int64", "int32", "offsets"),
    "flat offsets": (lambda: crop(IMAGES, OFFSETS[:, 0], 1), "(2,)", "(2, 2)", "offsets"),
    "images of grayscale": (lambda: grayscale(np.float32(IMAGES), COINS), "float32", "uint8", "images"),
    "integer grays": (lambda: grayscale(IMAGES, np.uint8(COINS)), "uint8", "bool", "grays"),
    "rows of grays": (lambda: grayscale(IMAGES, COINS[:, None]), "(2, 1)", "expected (2)", "grays"),
    "integer pixels": (lambda: normalise(np.int32(IMAGES), MEAN, MEAN), "int32", "float32", "pixels"),
    "one image's pixels": (lambda: normalise(IMAGES[0], MEAN, MEAN), "(4, 4, 3)", "pixels"),
    "scalar mean": (lambda: normalise(IMAGES, 0.5, MEAN), "()", "(3,)", "mean and std"),
    "scalar std": (lambda: normalise(IMAGES, MEAN, 0.5), "()", "(3,)", "mean and std"),
    "levels of cutout": (lambda: cut_out(jnp.asarray(IMAGES), jnp.zeros((2, 2)), 1), "uint8", "float32", "images"),
    "flat centres": (lambda: cut_out(jnp.float32(IMAGES), jnp.zeros(2), 1), "(2,)", "(2, 2)", "centres"),
    "several keys": (lambda: draw(jax.random.split(jax.random.key(0)), 4, REPORTED), "(2,)", "()", "key"),
    "an untyped key": (lambda: draw(np.zeros(2, np.uint32), 4, REPORTED), "(2,)", "()", "typed PRNG key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_shapes_and_dtypes_are_refused(case):
    refused_while_tracing(*REFUSED[case])
