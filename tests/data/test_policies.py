"""The operators of TrivialAugment and RandAugment compared with Pillow, called as torchvision calls it."""

import jax
import numpy as np
import pytest

from jresnet.data.policies import (
    MAGNITUDES,
    OPERATORS,
    RANDAUGMENT,
    TRIVIALAUGMENT,
    Choices,
    draw_choices,
    operate,
)
from tests.support.augmentation import DRAWN, ENHANCERS, refused_while_tracing, with_pillow, within_4_sigma

SPACES = {"trivialaugment": TRIVIALAUGMENT, "randaugment": RANDAUGMENT}
jitted = jax.jit(operate, static_argnums=2)


def make_images(count: int, height: int, width: int) -> np.ndarray:
    """Noise of all levels, of few levels and of one or two, in turn, and slopes; no channel like another."""
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    images[1::4] = rng.integers(90, 140, images[1::4].shape)
    images[2::4] = rng.integers(0, 256, images[2::4, :1, :1].shape)
    images[2::8, 0, 0] ^= 1
    slopes = np.linspace(0, 1, height * width).reshape(1, height, width, 1)
    images[3::4] = slopes * rng.integers(1, 256, images[3::4, :1, :1].shape)
    return images


def every_choice() -> Choices:
    """All operators, magnitudes and signs, of one round."""
    operators, magnitudes, negative = np.indices((len(OPERATORS), MAGNITUDES, 2)).reshape(3, -1, 1)
    return Choices(operators.astype(np.int32), magnitudes.astype(np.int32), negative.astype(bool))


def carried_out(images: np.ndarray, choices: Choices, space: str) -> np.ndarray:
    """What `operate` should return, image by image and operator by operator."""
    results = []
    for image, *rounds in zip(images, *choices, strict=True):
        for choice in zip(*rounds, strict=True):
            image = with_pillow(space, image, *choice)
        results.append(image)
    return np.stack(results)


def check_levels(found: np.ndarray, expected: np.ndarray, operators: np.ndarray) -> None:
    """Compare pixels exactly, or where Pillow computes in floating point numbers to a level in few pixels."""
    assert found.dtype == np.uint8
    different = np.abs(found.astype(int) - expected)
    for code, name in enumerate(OPERATORS):
        one = different[operators == code]
        # They fall short of some whole levels, of autocontrast's 255 above all, often in images of few pixels.
        allowed = {"AutoContrast": 0.01 if found[0].size > 300 else 0.1, **dict.fromkeys(ENHANCERS, 0.002)}.get(
            name, 0.0
        )
        assert one.max() <= (allowed > 0) and np.mean(one > 0) <= allowed, (name, one.max(), np.mean(one > 0))


def test_every_operator_at_every_magnitude_of_trivialaugment_has_pillows_pixels():
    choices = every_choice()
    images = make_images(len(choices.operators), 18, 16)
    found = np.asarray(jitted(images, choices, TRIVIALAUGMENT))
    check_levels(found, carried_out(images, choices, "trivialaugment"), choices.operators[:, 0])


def test_every_operator_at_every_magnitude_of_randaugment_and_a_shear_after_it_have_pillows_pixels():
    """Black comes in with the shear: before another operator, it would not stay black."""
    first = every_choice()
    shear = Choices(np.full_like(first.operators, 1), np.full_like(first.magnitudes, 30), ~first.negative)
    choices = Choices(*map(np.hstack, zip(first, shear, strict=True)))
    images = make_images(len(choices.operators), 16, 20)
    found = np.asarray(jitted(images, choices, RANDAUGMENT))
    check_levels(found, carried_out(images, choices, "randaugment"), choices.operators[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 3), (32, 32), (33, 47), (64, 64)])
def test_images_of_any_size_have_pillows_pixels(space, size):
    choices = every_choice()
    images = make_images(len(choices.operators), *size)
    found = np.asarray(jitted(images, choices, SPACES[space]))
    check_levels(found, carried_out(images, choices, space), choices.operators[:, 0])


@pytest.mark.slow
def test_x64_does_not_change_the_pixels():
    choices = every_choice()
    images = make_images(len(choices.operators), 8, 8)
    expected = jitted(images, choices, TRIVIALAUGMENT)
    with jax.enable_x64():
        np.testing.assert_array_equal(jax.jit(operate, static_argnums=2)(images, choices, TRIVIALAUGMENT), expected)


def test_operators_magnitudes_and_signs_are_equally_likely_and_independent():
    draws = jax.jit(draw_choices, static_argnums=(1, 2, 3))(jax.random.key(0), DRAWN // 2, 2, None)
    operators, magnitudes, negative = map(np.asarray, draws)
    assert operators.shape == magnitudes.shape == negative.shape == (DRAWN // 2, 2)
    pairs = np.bincount((operators * MAGNITUDES + magnitudes).reshape(-1), minlength=14 * MAGNITUDES)
    assert len(pairs) == 14 * MAGNITUDES
    assert all(within_4_sigma(count, DRAWN, 1 / len(pairs)) for count in pairs)
    assert within_4_sigma(negative.sum(), DRAWN, 1 / 2)
    assert within_4_sigma((negative & (operators == 3)).sum(), DRAWN, 1 / 28)
    # The second operator does not depend on the first.
    assert within_4_sigma((operators[:, 0] == operators[:, 1]).sum(), DRAWN // 2, 1 / 14)


IMAGES, CHOICES = np.zeros((2, 4, 4, 3), np.uint8), Choices(*np.zeros((2, 2, 1), np.int32), np.zeros((2, 1), bool))
REFUSED = {
    "float images": (lambda: operate(np.float32(IMAGES), CHOICES, RANDAUGMENT), "float32", "images"),
    "gray images": (lambda: operate(IMAGES[..., :1], CHOICES, RANDAUGMENT), "(2, 4, 4, 1)", "images"),
    "other images": (lambda: operate(IMAGES[:1], CHOICES, RANDAUGMENT), "(2, 1)", "choices"),
    "integer signs": (
        lambda: operate(IMAGES, CHOICES._replace(negative=CHOICES.operators), RANDAUGMENT),
        "int32",
        "bool",
        "choices",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_shapes_and_dtypes_are_refused(case):
    refused_while_tracing(*REFUSED[case])
