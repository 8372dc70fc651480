"""A synthetic ten-class image data set, to try the whole program without a download.

The classes differ only in shape and texture. Colour, position, size, contrast and background are drawn from the
same distributions for every class, so a linear classifier fails, while a small convolutional network learns the
classes within seconds. The augmentations of training (crops, horizontal flips, grayscale) preserve every class.

Pixels are computed from PCG64's random integers in integer arithmetic, so they are the same on every platform.
"""

from collections.abc import Callable

import numpy as np

CLASSES = (
    "disc", "ring", "square", "triangle", "diamond", "cross", "saltire", "horizontal stripes", "vertical stripes",
    "checkerboard",
)  # fmt: skip

# In gray levels; chosen so that a small ResNet needs a few epochs and a linear classifier fails.
_CONTRAST = (70, 150)
_CHROMA = 30
_TEXTURE = 30
_NOISE = 40


def draw(
    train: int, test: int, seed: int = 0, image_size: int = 32
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a training set and a test set; neither depends on the size of the other.

    Each has as many images of every class, to within one; `image_size` in pixels is at least 16.

    Returns:
      Training images uint8 [train, image_size, image_size, 3] and labels int32 [train], indices of `CLASSES`,
      then images and labels of the test set.
    """
    return *_draw_split(seed, 0, train, image_size), *_draw_split(seed, 1, test, image_size)


def _draw_split(seed: int, stream: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64((seed, stream)))
    labels = rng.permutation(np.arange(count) % len(CLASSES)).astype(np.int32)
    masks = _masks(rng, labels, size)
    foreground, background = _colours(rng, count)
    images = np.where(masks[..., None], foreground[:, None, None], background[:, None, None])
    images += _texture(rng, count, size)[..., None]
    images += _scaled_noise(rng, _NOISE, (count, size, size, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def _masks(rng: np.random.Generator, labels: np.ndarray, size: int) -> np.ndarray:
    """The pixels of each image that are inside its shape, bool [n, size, size]."""
    # All lengths are in half pixels.
    count = len(labels)
    radius = rng.integers(3 * size // 8, 11 * size // 16, count, endpoint=True)
    centre = rng.integers(radius, 2 * size - radius, (2, count), endpoint=True)
    thickness = rng.integers(size // 8, 3 * size // 16, count, endpoint=True)
    masks = np.empty((count, size, size), bool)
    pixels = 2 * np.arange(size) + 1
    for label, name in enumerate(CLASSES):
        chosen = np.flatnonzero(labels == label)
        y = pixels[None, :, None] - centre[0, chosen, None, None]
        x = pixels[None, None, :] - centre[1, chosen, None, None]
        masks[chosen] = _shape(name, y, x, radius[chosen, None, None], thickness[chosen, None, None])
    return masks


def _shape(name: str, y: np.ndarray, x: np.ndarray, radius: np.ndarray, thickness: np.ndarray) -> np.ndarray:
    """The points inside a shape, bool, at offsets `y` (down) and `x` (right) from its centre."""
    square: np.ndarray = np.maximum(abs(y), abs(x)) <= radius
    disc: np.ndarray = y**2 + x**2 <= radius**2
    odd_row, odd_column = (y + radius) // thickness % 2 == 1, (x + radius) // thickness % 2 == 1
    inside: dict[str, Callable[[], np.ndarray]] = {
        "disc": lambda: disc,
        "ring": lambda: disc & (y**2 + x**2 > (radius - thickness) ** 2),
        "square": lambda: square,
        "triangle": lambda: square & (2 * abs(x) <= y + radius),
        "diamond": lambda: abs(y) + abs(x) <= radius,
        "cross": lambda: square & (2 * np.minimum(abs(y), abs(x)) <= thickness),
        "saltire": lambda: square & (abs(abs(y) - abs(x)) <= thickness),
        "horizontal stripes": lambda: square & odd_row,
        "vertical stripes": lambda: square & odd_column,
        "checkerboard": lambda: square & (odd_row ^ odd_column),
    }
    return inside[name]()


def _colours(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Foreground and background colours, int16 [n, 3] each, light on dark as often as dark on light.

    The contrast in brightness exceeds that in colour, so that the shapes survive conversion to grayscale.
    """
    contrast = rng.integers(*_CONTRAST, count, endpoint=True)
    middle = rng.integers(contrast // 2, 255 - contrast // 2, count, endpoint=True)
    sign = 2 * rng.integers(0, 1, count, endpoint=True) - 1
    levels = np.stack([middle + sign * contrast // 2, middle - sign * contrast // 2])
    tints = rng.integers(-_CHROMA, _CHROMA, (2, count, 3), endpoint=True)
    foreground, background = (levels[..., None] + tints).astype(np.int16)
    return foreground, background


def _texture(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Random brightness offsets of patches of 4 x 4 pixels, int16 [n, size, size]."""
    cells = -(-size // 4)
    patches = _scaled_noise(rng, _TEXTURE, (count, cells, cells))
    return patches.repeat(4, axis=1).repeat(4, axis=2)[:, :size, :size]


def _scaled_noise(rng: np.random.Generator, largest: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise with a random amplitude per image, from 0 to `largest`: int16 of the given shape."""
    amplitude = rng.integers(0, largest, shape[0], np.int16, endpoint=True).reshape(-1, *[1] * (len(shape) - 1))
    noise: np.ndarray = rng.integers(-128, 127, shape, np.int8, endpoint=True) * amplitude // np.int16(128)
    return noise
