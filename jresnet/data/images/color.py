"""From the pixels of any of Pillow's modes to 8-bit RGB, in exact arithmetic, without clipping."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jresnet.errors import InputError

Color = tuple[int, int, int]
_STRIP = 2**20  # pixels that are converted at once, so that a large image takes little more memory than its pixels


def rgb(image: Any, background: Color) -> np.ndarray:
    """The pixels of a Pillow image: uint8 [height, width, 3].

    Transparent pixels lie on the background: a channel of level c and opacity a, both from 0 to 255, becomes
    (c * a + b * (255 - a)) / 255, rounded. Levels v of 16 bits become v * 255 / 65535, rounded; those of Pillow's
    32-bit integers are taken as they are if all lie from 0 to 255; floats from 0 to 1 become v * 255, rounded.

    Raises:
      InputError: integers of 32 bits or floats in another range. The message does not name the file.
    """
    raw = str(image.tile[0][3]) if getattr(image, "tile", None) else ""
    image.load()
    if image.mode[0] in "IF":
        return _from_levels(image, background)
    if (key := _transparent_color(image, raw)) is not None:
        opaque = image.copy()
        del opaque.info["transparency"]
        return _by_strips(opaque.convert("RGB"), lambda strip: over(strip, _opacity(strip != key), background))
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        transparent = straight if image.mode == "RGBA" else straight.convert("RGBA")
        return _by_strips(transparent, lambda strip: over(strip[..., :3], strip[..., 3:], background))
    return np.asarray(_from_lab(image) if image.mode == "LAB" else image.convert("RGB"))


def over(color: np.ndarray, alpha: np.ndarray, background: Color) -> np.ndarray:
    """Composite uint8 [..., 3] of opacity uint8 [..., 1] on a background: uint8 [..., 3]."""
    opacity = alpha.astype(np.uint16)
    mixed = color * opacity + np.array(background, np.uint16) * (255 - opacity)
    return ((mixed + np.uint16(127)) // np.uint16(255)).astype(np.uint8)


def _transparent_color(image: Any, raw: str) -> Color | None:
    """The color that a loaded image without palette declares to be transparent, on the scale of its pixels.

    Pillow scales only the pixels of a PNG with few bits, and cuts only them to 8 bits.

    Args:
      image: the image.
      raw: how its file stores pixels, in Pillow's words.
    """
    level = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(level, int):
        level = 255 * min(level, 1) if image.mode == "1" else level * {"L;2": 85, "L;4": 17}.get(raw, 1)
        return level, level, level
    if image.mode == "RGB" and isinstance(level, tuple):
        red, green, blue = (channel >> 8 if raw == "RGB;16B" else channel for channel in level)
        return red, green, blue
    return None


def _opacity(differs: np.ndarray) -> np.ndarray:
    """Opacity uint8 [..., 1] of pixels whose channels differ from the transparent color: bool [..., channels]."""
    return np.where(differs.any(axis=-1, keepdims=True), np.uint8(255), np.uint8(0))


def _from_lab(image: Any) -> Any:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))


def _from_levels(image: Any, background: Color) -> np.ndarray:
    """uint8 [height, width, 3] from one channel of 16-bit or 32-bit integers, or of floats."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    inverted = tags.get(262) == 0  # white is zero, which Pillow reads as if it were black
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        bits = tags.get(258, (16,))[0]
        top = 2 ** (bits if bits < 16 else 16) - 1
    else:
        top = 1 if image.mode == "F" else 255
        pixels = np.asarray(image)
        least, greatest = pixels.min(), pixels.max()
        if not 0 <= least <= greatest <= top:  # false for NaN
            kind = "floats" if image.mode == "F" else "32-bit integers"
            raise InputError(
                f"its levels are {kind} from {least:g} to {greatest:g}, not from 0 to {top}: save it with 8 or 16 bits"
            )
    transparent = image.info.get("transparency")

    def strip_rgb(strip: np.ndarray) -> np.ndarray:
        levels = top - strip.astype(np.float64) if inverted else strip.astype(np.float64)
        gray = np.floor(levels * 255 / top + 0.5).astype(np.uint8)
        color = np.repeat(gray[..., None], 3, axis=2)
        if transparent is None:
            return color
        return over(color, _opacity(strip[..., None] != transparent), background)

    return _by_strips(image, strip_rgb)


def _by_strips(image: Any, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Convert an image some rows at a time: uint8 [height, width, 3]."""
    width, height = image.size
    rows = max(1, _STRIP // width)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels[top:bottom] = convert(np.asarray(image.crop((0, top, width, bottom))))
    return pixels
