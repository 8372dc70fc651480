"""Images in another size."""

import numpy as np
import rich.console

from jresnet.config import Resize
from jresnet.data import memory
from jresnet.data.images import decoded
from jresnet.data.images.color import Color
from jresnet.data.mapped import Images


def resized(array: np.ndarray, image_size: tuple[int, int], resize: Resize, background: Color) -> np.ndarray:
    """An image in another size; one that has it already is returned as it is, bit for bit.

    Bilinear and antialiased: every pixel is a mean of all pixels below it, weighted with a triangle as wide as two
    of the new pixels, as torchvision's `Resize` computes it for images of Pillow.

    Args:
      array: uint8 [height, width, 3].
      image_size: (height, width) of the result.
      resize: crop scales the image so that it covers the new size, and cuts evenly what exceeds it; pad scales it so
        that it fits in, and adds the background evenly around it; stretch scales each side by itself.
      background: red, green and blue levels of the padding.

    Returns:
      uint8 [*image_size, 3].
    """
    from PIL import Image

    height, width = array.shape[:2]
    new_height, new_width = image_size
    if (height, width) == image_size:
        return array
    image = Image.fromarray(array)
    box = (0.0, 0.0, float(width), float(height))
    if resize == "pad":
        scale = min(new_height / height, new_width / width)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        padded = Image.new("RGB", (new_width, new_height), background)
        place = (new_width - inner[0]) // 2, (new_height - inner[1]) // 2
        padded.paste(image.resize(inner, Image.Resampling.BILINEAR), place)
        return np.asarray(padded)
    if resize == "crop":
        scale = max(new_height / height, new_width / width)
        x, y = max(0.0, (width - new_width / scale) / 2), max(0.0, (height - new_height / scale) / 2)
        box = (x, y, width - x, height - y)
    return np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR, box))


def resized_all(
    images: Images,
    image_size: tuple[int, int],
    resize: Resize,
    background: Color,
    console: rich.console.Console | None = None,
) -> np.ndarray:
    """Images uint8 [n, height, width, 3] in another size, each as `resized` makes it: uint8 [n, *image_size, 3].

    Raises:
      InputError: they exceed the machine's memory.
    """
    height, width = image_size
    size = len(images) * height * width * 3
    memory.check(f"{len(images):,} images of {height} x {width}", size, "lower --image-size, or give fewer images")
    result = np.empty((len(images), height, width, 3), np.uint8)

    def fill(index: int) -> None:
        result[index] = resized(images[index], image_size, resize, background)

    decoded.in_parallel(fill, range(len(images)), "resizing images", console)
    return result
