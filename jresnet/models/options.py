"""A network's options: their choices, and which of them go together."""

from typing import TYPE_CHECKING, get_args

from jresnet.config import Shortcut, Stem
from jresnet.errors import InputError

if TYPE_CHECKING:  # resnet.py imports this module
    from jresnet.models.resnet import ResNet


def check_options(model: "ResNet", image_size: tuple[int, int] | None = None) -> None:
    """Check that a network's options go together and, given (height, width) in pixels, that its pooling fits.

    Raises:
      InputError: they do not.
    """
    kernel_sizes, stages, preactivated = model.kernel_sizes, len(model.stage_sizes), model.block_cls.preactivated
    channels, squeeze = model.stem_width or model.width, model.squeeze or 1
    rules = [
        (
            len(kernel_sizes) == stages,
            f"kernel_size {kernel_sizes}: give one number, or one for each of {stages} stages",
        ),
        (all(side % 2 for side in kernel_sizes), f"kernel_size {model.kernel_size}: must be odd"),
        (model.stem in get_args(Stem), f"stem {model.stem}: must be one of {get_args(Stem)}"),
        (model.shortcut in get_args(Shortcut), f"shortcut {model.shortcut}: must be one of {get_args(Shortcut)}"),
        (preactivated or not model.block_dropout, "block_dropout: applies to PreactBlock only: use dropout"),
        (preactivated or not model.final_norm, "final_norm: applies to PreactBlock only: leave it out"),
        (
            not (preactivated and model.zero_init),
            "zero_init: not for pre-activation networks, whose blocks end in a convolution: leave it out",
        ),
        (channels >= squeeze, f"squeeze {squeeze}: exceeds the stem's channels, {channels}: lower it, or raise width"),
    ]  # fmt: skip
    if image_size is not None and model.pool_size is not None:
        height, width = model.feature_map(image_size)
        message = f"pool_size {model.pool_size}: exceeds the last feature map, {height} x {width}: lower it"
        rules.append((model.pool_size <= min(height, width), message))
    for holds, message in rules:
        if not holds:
            raise InputError(message)
