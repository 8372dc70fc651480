"""Reference augmentations of one image, in float64 or by Pillow, and a test of the frequencies of random draws."""

import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jresnet.data.policies import MAGNITUDES, OPERATORS

DRAWN = 100_000
SIGNED = OPERATORS[1:10]
ENHANCERS = ("Brightness", "Color", "Contrast", "Sharpness")


def reference(image, offset, flip, gray, padding):
    """Augment one image like torchvision: RandomCrop, RandomHorizontalFlip, RandomGrayscale, in float64."""
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, 3))
    padded[padding : padding + height, padding : padding + width] = image
    top, left = offset
    pixels = padded[top : top + height, left : left + width]
    if flip:
        pixels = np.array([row[::-1] for row in pixels])
    if gray:
        red, green, blue = np.moveaxis(pixels, -1, 0)
        pixels = np.stack([0.2989 * red + 0.587 * green + 0.114 * blue] * 3, -1)
    return pixels


def cut_out_reference(image, row, column, side):
    """Set a square to zero pixel by pixel: `side` rows and columns, the centre at place side // 2 of them."""
    image = image.copy()
    for y in range(row - side // 2, row - side // 2 + side):
        for x in range(column - side // 2, column - side // 2 + side):
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                image[y, x] = 0
    return image


def magnitude_of(space: str, name: str, bin: int, height: int, width: int) -> float:
    """A magnitude of torchvision's `_augmentation_space`, whose torch.linspace is NumPy's but for float32's rounding.

    That rounding makes 15.999999, and 15 whole pixels, of TrivialAugmentWide's 16; here they are 16.
    """
    wide = space == "trivialaugment"
    greatest = {
        "ShearX": 0.99 if wide else 0.3,
        "ShearY": 0.99 if wide else 0.3,
        "TranslateX": 32.0 if wide else 150.0 / 331.0 * width,
        "TranslateY": 32.0 if wide else 150.0 / 331.0 * height,
        "Rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(ENHANCERS, 0.99 if wide else 0.9),
    }
    if name == "Posterize":
        return 8 - round(bin / ((MAGNITUDES - 1) / (6 if wide else 4)))
    if name == "Solarize":
        return float(np.linspace(255.0, 0.0, MAGNITUDES)[bin])
    return float(np.linspace(0.0, greatest[name], MAGNITUDES)[bin]) if name in greatest else 0.0


def with_pillow(space: str, image: np.ndarray, operator: int, bin: int, negative: bool) -> np.ndarray:
    """torchvision's `_apply_op` on a PIL image, with its inverse matrices written out."""
    name = OPERATORS[operator]
    magnitude = magnitude_of(space, name, bin, *image.shape[:2]) * (-1 if negative and name in SIGNED else 1)
    picture = Image.fromarray(image)

    def affine(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    if name in ENHANCERS:
        return np.asarray(getattr(ImageEnhance, name)(picture).enhance(1.0 + magnitude))
    shear = math.tan(math.radians(math.degrees(math.atan(magnitude))))
    return np.asarray(
        {
            "Identity": lambda: picture,
            "ShearX": lambda: affine(1, shear, 0, 0, 1, 0),
            "ShearY": lambda: affine(1, 0, 0, shear, 1, 0),
            "TranslateX": lambda: affine(1, 0, -int(magnitude), 0, 1, 0),
            "TranslateY": lambda: affine(1, 0, 0, 0, 1, -int(magnitude)),
            "Rotate": lambda: picture.rotate(magnitude, Image.Resampling.NEAREST),
            "Posterize": lambda: ImageOps.posterize(picture, int(magnitude)),
            "Solarize": lambda: ImageOps.solarize(picture, magnitude),
            "AutoContrast": lambda: ImageOps.autocontrast(picture),
            "Equalize": lambda: ImageOps.equalize(picture),
        }[name]()
    )


def within_4_sigma(count, draws, probability):
    """Whether a count of `draws` events is within 4 standard deviations of its expectation."""
    sigma = np.sqrt(draws * probability * (1 - probability))
    return abs(count - draws * probability) <= 4 * sigma


def refused_while_tracing(call, *parts):
    """Assert that a call's shapes and dtypes are refused when it is traced, in a message with these parts."""
    with pytest.raises(AssertionError) as caught:
        jax.eval_shape(call)
    assert all(part in str(caught.value) for part in parts), caught.value
