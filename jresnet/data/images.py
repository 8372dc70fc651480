"""Image files and arrays of images: from whatever is stored to 8-bit RGB pixels of a stated size."""

import warnings

import numpy as np

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
