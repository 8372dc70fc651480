"""Reference augmentation of one image in float64, and a test of the frequencies of random draws."""

import numpy as np

DRAWN = 100_000


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


def within_4_sigma(count, draws, probability):
    """Whether a count of `draws` events is within 4 standard deviations of its expectation."""
    sigma = np.sqrt(draws * probability * (1 - probability))
    return abs(count - draws * probability) <= 4 * sigma
