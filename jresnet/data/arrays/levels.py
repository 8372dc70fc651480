"""Arrays of images as people store them, from floats to channels first: decoded exactly to 8 bits, or refused.

What a split holds is judged over all splits together: a dark test split does not make another rule.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from jresnet.data.progress import warn
from jresnet.errors import InputError

Images = Mapping[str, np.ndarray]
"""Arrays of images by split."""

_CHUNK = 2**22  # numbers that are converted at once
_CHANNELS = (1, 3)
# What a float image of k/255 or k/127.5 - 1 is away from k, in levels: float32 and float64, which may have been
# computed in float32; float16.
_EXACT, _EXACT_HALF = 1e-3, 0.13
# 255 times the rounded 1/255 is not always 1.
_ONE = 1.001


def as_levels(images: Images, where: str) -> dict[str, np.ndarray]:
    """Images as uint8 from 0 to 255 with channels last; `where` is what they are from, for what is logged.

    Takes [n, height, width], [n, height, width, channels] or [n, channels, height, width] with 1 or 3 channels, of
    booleans, of integers from 0 to 255, or of floats that are such integers k, k/255 or k/127.5 - 1 but for rounding.
    What has another number of axes is returned as it is.

    Raises:
      InputError: two layouts are possible, the splits differ in what they hold, or values have no exact 8-bit origin.
    """
    if any(array.ndim not in (2, 3, 4) for array in images.values()):
        return dict(images)
    return _as_uint8(_channels_last(images, where), where)


def _channels_last(images: Images, where: str) -> dict[str, np.ndarray]:
    for split, array in images.items():
        if array.ndim == 2:
            raise InputError(f"{split} images have shape {array.shape}, flat rows: {_unflatten(array.shape[1])}")
    solid = [array for array in images.values() if array.ndim == 4]
    last = all(array.shape[3] in _CHANNELS for array in solid)
    first = all(array.shape[1] in _CHANNELS for array in solid)
    if not solid or not first:
        return dict(images)
    if last:
        raise InputError(
            f"images have shape {solid[0].shape}, which could be (n, height, width, channels) or (n, channels, height, "
            "width): store them with channels last and a height of neither 1 nor 3, or as (n, height, width)"
        )
    warn(f"{where}: images of shape {solid[0].shape} are read as (n, channels, height, width)")
    return {split: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for split, array in images.items()}


def _unflatten(length: int) -> str:
    """How to give rows of `length` numbers the shape of images."""
    for channels in (1, 3):
        side = math.isqrt(length // channels)
        if side > 1 and side**2 * channels == length:
            rows = f"images.reshape(-1, {side}, {side}"
            if channels == 1:
                return f"save {rows})"
            return (
                f"save {rows}, 3), or with channels first, as in CIFAR's files, images.reshape(-1, 3, {side}, {side})"
            )
    return "make it (n, height, width) or (n, height, width, channels)"


def _as_uint8(images: Images, where: str) -> dict[str, np.ndarray]:
    rules = {split: _rule(images, split) for split in images}
    if len(set(rules.values())) > 1:
        found = ", ".join(f"{split} images are {array.dtype} ({rules[split]})" for split, array in images.items())
        raise InputError(f"{found}: store all splits in one way, as uint8 from 0 to 255")
    (rule,) = set(rules.values())
    levels = {split: _converted(split, array, _SCALES[rule]) for split, array in images.items()}
    if rule != "0 to 255":
        warn(f"{where}: images are {rule}, read as levels from 0 to 255")
    elif max((int(array.max()) for array in levels.values() if array.size), default=255) <= 1:
        warn(f"{where}: no level of the images is above 1, of 255: if they were floats in 0..1, save them times 255")
    return levels


# The levels of what a rule names, not yet rounded.
_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0 to 255": lambda values: values,
    "booleans": lambda values: values * 255,
    "0 to 1": lambda values: values * 255,
    "-1 to 1": lambda values: (values + 1) * 127.5,
}


def _rule(images: Images, split: str) -> str:
    """The name of what a split holds, a key of _SCALES; floats by the range of all splits of floats."""
    array = images[split]
    if array.dtype.kind == "b":
        return "booleans"
    if array.dtype.kind in "iu":
        low, high = _range([array])
        if low < 0 or high > 255:
            raise InputError(f"{split} images are {array.dtype} from {low:.0f} to {high:.0f}: {_deep(low, high)}")
        return "0 to 255"
    if array.dtype.kind != "f":
        raise InputError(f"{split} images are {array.dtype}: save them as uint8 from 0 to 255")
    low, high = _range([other for other in images.values() if other.dtype.kind == "f"])
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(
            f"{split} images are {array.dtype} with NaN or infinity: repair them, and save uint8 from 0 to 255"
        )
    if low >= 0 and high <= _ONE:
        return "0 to 1"
    if -_ONE <= low < 0 and high <= _ONE:
        return "-1 to 1"
    if low >= 0 and high <= 255:
        return "0 to 255"
    raise InputError(
        f"{split} images are {array.dtype} from {low:.4g} to {high:.4g}, which look standardised: save them as they "
        "were before a mean was subtracted, as uint8 from 0 to 255"
    )


def _deep(low: float, high: float) -> str:
    """The remedy for integers beyond 8 bits."""
    if low >= 0 and high <= 65535:
        return "if they have 16 bits, save (images / 257).round().astype(np.uint8), or scale them by their own range"
    if low >= -128 and high <= 127:
        return "if 128 was subtracted, or they overflowed int8, save them as uint8 from 0 to 255"
    return "make it uint8 from 0 to 255"


def _range(arrays: list[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest value, NaN if any is; (0, 0) of nothing."""
    bounds = [float(bound) for array in arrays if array.size for bound in (array.min(), array.max())] or [0.0]
    return (math.nan, math.nan) if any(map(math.isnan, bounds)) else (min(bounds), max(bounds))


def _converted(split: str, array: np.ndarray, scale: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The levels, uint8; in chunks, as float64 takes eight times their memory."""
    if array.dtype == np.uint8:
        return array
    levels = np.empty(array.shape, np.uint8)
    tolerance = _EXACT_HALF if array.dtype == np.float16 else _EXACT
    rows = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        values = scale(part.astype(np.float64))
        rounded = np.rint(values)
        if array.dtype.kind == "f" and (distance := np.abs(values - rounded)).max(initial=0.0) > tolerance:
            value = float(part.ravel()[distance.ravel().argmax()])
            raise InputError(
                f"{split} images are {array.dtype} with values such as {value:.6g}, no level of 8 bits: scale them to "
                "0 to 255 and save images.round().astype(np.uint8)"
            )
        levels[start : start + rows] = rounded
    return levels
