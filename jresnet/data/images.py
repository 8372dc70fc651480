"""Image files and arrays of images: from whatever is stored to 8-bit RGB pixels of a stated size."""

import warnings

import numpy as np

from jresnet.config import Resize
from jresnet.errors import InputError, first_line

# Pillow goes by a file's content, and for some of its other formats, as EPS, it starts programs.
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


def decode(file: str) -> np.ndarray:
    """The pixels of an image file, uint8 [height, width, 3]; InputError if it is no readable image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow only warns of images that are large enough to exhaust the memory of a small machine.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_IMAGE_FORMATS) as image:
                # Pillow would clip 16-bit and float images to white instead of scaling them.
                if image.mode[0] not in "IF":
                    return np.asarray(image.convert("RGB"))
                mode = image.mode
    except Exception as error:  # Pillow's decoders have their own errors for damage, as struct.error
        reason = first_line(error)
        raise InputError(f"{file} cannot be read as an image ({reason}): repair or remove it") from None
    raise InputError(f"{file} has more than 8 bits per channel (mode {mode}): convert it to 8 bits first")


def resized(
    array: np.ndarray, image_size: tuple[int, int], resize: Resize, background: tuple[int, int, int]
) -> np.ndarray:
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
