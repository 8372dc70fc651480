"""From a configuration to a network: build it, check it and count its parameters."""

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.errors import InputError
from jresnet.models.options import check_options
from jresnet.models.resnet import ResNet
from jresnet.models.variants import VARIANTS
from jresnet.rules import require

MAX_PARAMETERS = 2**36
"""Of a network that is trained: parameters, gradients and momenta take 12 bytes each or more, 768 GiB for so many."""

MAX_PIXELS = 2**23
"""Of an image that operators change: 255 times as many, the sum that contrast takes the mean of, fit into 32 bits."""


@lru_cache
def from_config(config: Config, num_classes: int) -> ResNet:
    """The network that a configuration describes, for `num_classes` classes; built and checked once.

    Raises:
      InputError: options that do not go together.
    """
    variant = VARIANTS[config.model]
    preactivated = variant().block_cls.preactivated
    dropout = "block_dropout" if preactivated else "dropout"
    rule = "leave it out for pre-activation networks, whose blocks end in a convolution"
    require(config, "zero_init", not (config.zero_init and preactivated), rule, value="")
    options = {
        "width": config.width,
        "stage_sizes": config.blocks,
        "kernel_size": config.kernel_size,
        "pool_size": config.pool_size,
        "shortcut": config.shortcut,
        "stem": config.stem,
        "epsilon": config.epsilon,
        "zero_init": config.zero_init or None,
        dropout: config.dropout,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if config.pool_size == 0:
        given["pool_size"] = None  # of `ResNet`: the whole feature map
    model = variant(
        num_classes=num_classes, dtype=jnp.dtype(config.precision), local_norm=config.batch_norm == "local",
        frozen=config.freeze, **given,
    )  # fmt: skip
    check_options(model)
    stages = len(model.stage_sizes)
    within = all(stage <= stages for stage in config.freeze)
    require(config, "freeze", within, f"must be 0, the stem, or numbers of stages, of which there are {stages}")
    # Otherwise the padded network would add and drop other channels.
    same = config.channel_multiple == 1 or (
        model.shortcut == "projection" and model.dropout == model.block_dropout == 0
    )
    require(config, "channel_multiple", same, "needs projection shortcuts and no dropout: choose 1")
    same = _begins_with_projection(model) == _begins_with_projection(padded(model, config.channel_multiple))
    require(config, "channel_multiple", same, "would change the first block's shortcut: choose 1, or another --width")
    # Muon scales a kernel's update by its number of channels.
    same = config.optimizer != "muon" or padded(model, config.channel_multiple) == model
    require(config, "channel_multiple", same, "must divide the network's widths with --optimizer muon: choose 1")
    return model


def _begins_with_projection(model: ResNet) -> bool:
    """Whether the first block of the first stage, of stride 1, changes the number of channels."""
    return (model.stem_width or model.width) != model.width * model.block_cls.expansion


def padded(model: ResNet, multiple: int) -> ResNet:
    """The network with the channels of its stem and of its first stage rounded up to a multiple of `multiple`.

    With zeros for the additional parameters, at the end of each axis, it computes the same function. The zeros stay:
    the additional channels are zero, and so is every gradient of the additional parameters.
    """

    def up(channels: int) -> int:
        return -(-channels // multiple) * multiple

    stem_width = None if model.stem_width is None else up(model.stem_width)
    return model.clone(width=up(model.width), stem_width=stem_width)


def fill_defaults(config: Config) -> Config:
    """The same configuration with the network's own defaults filled in, as records hold it.

    `shortcut`, `stem` and `epsilon`, which records of older versions lack, become None where they are the network's
    own, so that a run keeps its digest and its record. A `pool_size` of None means the whole feature map where that is
    the network's own, and 0 means it elsewhere.
    """
    model, own = from_config(config, 2), VARIANTS[config.model]()
    kept: dict[str, Any] = {
        name: None if getattr(model, name) == getattr(own, name) else getattr(model, name)
        for name in ("shortcut", "stem", "epsilon")
    }
    whole = None if own.pool_size is None else 0
    return dataclasses.replace(
        config, width=model.width, blocks=model.stage_sizes, kernel_size=model.kernel_size,
        pool_size=whole if model.pool_size is None else model.pool_size, dropout=model.block_dropout or model.dropout,
        **kept,
    )  # fmt: skip


@lru_cache
def init_fn(model: ResNet) -> Callable[[jax.Array, jax.Array], Any]:
    """`(key, images) -> variables`: `model.init` with `train=False`, jitted so that it is traced once per shape.

    Images are float32 [batch, height, width, channels]; only their shape matters.
    """
    return jax.jit(partial(model.init, train=False))


def usual_image_size(model: ResNet) -> tuple[int, int]:
    """(height, width) in pixels of CIFAR's images, or of ImageNet's after the usual crop."""
    return (224, 224) if model.stem == "imagenet" else (32, 32)


def check_image_size(image_size: Any) -> None:
    """Check that this is (height, width) in pixels, of an image that JAX can count the pixels of.

    Raises:
      InputError: it is not.
    """
    pair = isinstance(image_size, tuple | list) and len(image_size) == 2
    whole = pair and all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in image_size)
    if not whole or min(image_size) < 1 or math.prod(map(int, image_size)) >= 2**31:
        rule = "must be a height and a width in whole pixels from 1, below 2147483648 pixels in all"
        raise InputError(f"image_size {image_size!r:.80}: {rule}: give the images' own, as in (32, 32)")


def variable_shapes(model: ResNet, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `model.init` returns on RGB images of `image_size`, (height, width) in pixels, as `jax.ShapeDtypeStruct`s.

    Raises:
      InputError: options that do not go together, or pooling larger than the last feature map.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))  # a key itself would be computed, by programs to compile
    shapes: dict[str, Any] = jax.eval_shape(init_fn(model), key, images)
    return shapes


@lru_cache
def parameter_count(model: ResNet, image_size: tuple[int, int]) -> int:
    """Number of trainable parameters of a network on RGB images of `image_size`, (height, width) in pixels.

    Raises:
      InputError: options that do not go together, or pooling larger than the last feature map.
    """
    # Tracing takes time by the block, and every block of a stage after the second has the parameters of the second.
    short = model.clone(stage_sizes=tuple(min(blocks, 2) for blocks in model.stage_sizes))
    params = variable_shapes(short, image_size)["params"]
    count = _size(params)
    for stage, blocks in enumerate(model.stage_sizes, 1):
        if blocks > 2:
            count += (blocks - 2) * _size(params[f"layer{stage}_1"])
    return count


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def fitting_width(model: ResNet, image_size: tuple[int, int], budget: int) -> int:
    """The largest width, below the network's own, that has at most `budget` parameters; 0 if there is none.

    A few guesses suffice: a network of s times the width, s below 1, has at least s**2 times the parameters, so a
    guess by that never falls below the answer.
    """
    least = model.squeeze or 1 if model.stem_width is None else 1
    width, count = model.width, parameter_count(model, image_size)
    while count > budget:
        # One more than by the rule, which squeeze-and-excitation, rounding its hidden units down, misses by less.
        width = min(width - 1, math.isqrt(width**2 * budget // count) + 1)
        if width < least:
            return 0
        count = parameter_count(model.clone(width=width), image_size)
    return width


def check_network(config: Config, num_classes: int, image_size: tuple[int, int]) -> int:
    """Check a configuration's network against its images and its budget.

    Args:
      config: the configuration.
      num_classes: number of classes, the linear layer's outputs.
      image_size: (height, width) of the images in pixels.

    Returns:
      The network's number of trainable parameters.

    Raises:
      InputError: options that do not go together, images without pixels, pooling larger than the feature map, or too
        many parameters.
    """
    if min(image_size) < 1:
        raise InputError(f"images of {image_size[0]} x {image_size[1]} have no pixels: give images of at least 1 x 1")
    model = from_config(config, num_classes)
    height, width = model.feature_map(image_size)
    require(
        config, "pool_size", model.pool_size is None or model.pool_size <= min(height, width),
        f"exceeds the last feature map, {height} x {width} for images of {image_size[0]} x {image_size[1]}: "
        f"choose at most {min(height, width)}, or 0 for the whole map", value=model.pool_size,
    )  # fmt: skip
    count = parameter_count(model, image_size)
    if config.budget is not None and count > config.budget:
        fitting = fitting_width(model, image_size, config.budget)
        remedy = f"--width {fitting} or less" if fitting else "fewer --blocks"
        raise InputError(
            f"--width {model.width}: the network has {count:,} parameters, over the budget of {config.budget:,}: "
            f"choose {remedy}, or raise --budget"
        )
    return count


def check_training(config: Config, dataset: Dataset, devices: int = 1) -> None:
    """Check that a configuration's network can learn from a data set; `check_network` checks the network itself.

    Args:
      config: the configuration.
      dataset: the data, after the configuration's validation images are held out.
      devices: number of devices that share a batch.

    Raises:
      InputError: crops that may miss the image, a square of cutout larger than it, images too large for operators,
        fewer than two classes, a class without training images, training images of one colour only, no images to
        evaluate, a network beyond every memory, more updates than JAX can count, a batch that does not divide into the
        parts to compute it in, or one with one value per channel, which batch normalisation would turn into its bias
        (torch.nn.BatchNorm2d refuses it, too).
    """
    images, side = len(dataset.train), min(dataset.image_size)
    rule = f"must be below {side}, the images' shorter side, as crops of the padding alone show nothing"
    require(config, "crop_padding", config.crop_padding < side, f"{rule}: choose at most {side - 1}")
    height, width = dataset.image_size
    rule = f"takes images of at most {MAX_PIXELS:,} pixels, and these have {height} x {width}: choose an --image-size"
    for name in ("trivialaugment", "randaugment"):
        require(config, name, not getattr(config, name) or height * width <= MAX_PIXELS, rule, value="")
    rule = f"must be at most {side}, the images' shorter side: a larger square hides whole images"
    require(config, "cutout", config.cutout <= side, f"{rule}: choose at most {side}")
    if len(dataset.classes) < 2:
        raise InputError(f"--dataset {dataset.name}: it has {len(dataset.classes)} class: give at least 2")
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    if not counts.all():
        missing = dataset.classes[counts.argmin()]
        raise InputError(
            f"--dataset {dataset.name}: class {missing} has no training image: add some, or leave out the class"
        )
    if set(dataset.channel_statistics[1]) == {1.0}:
        raise InputError(f"--dataset {dataset.name}: all training images are of one and the same colour: give others")
    if len(dataset.validation) == len(dataset.test) == 0:
        raise InputError(f"--dataset {dataset.name}: there is no test and no validation image: give at least one")
    model = from_config(config, len(dataset.classes))
    parameters = parameter_count(padded(model, config.channel_multiple), dataset.image_size)
    if parameters > MAX_PARAMETERS:
        raise InputError(
            f"--model {config.model}: it has {parameters:,} parameters with these options, and at most "
            f"{MAX_PARAMETERS:,} can be trained: lower --width, --blocks, --kernel-size or --channel-multiple"
        )
    updates = config.epochs * config.steps_per_epoch(images)
    rule = f"makes {updates:,} updates of {images:,} images by --batch-size {config.batch_size}"
    require(config, "epochs", updates < 2**31, f"{rule}, but JAX counts to 2,147,483,647: choose fewer")
    _check_parts(config, images, devices)
    values = smallest_batch(config, images, devices) * math.prod(model.feature_map(dataset.image_size))
    together = "a batch" if config.accumulate == 1 else "a part of a batch"
    rule = f"leaves 1 of {images:,} training images for {together}, whose last feature map is 1 x 1"
    remedy = "batch normalisation needs 2 values: choose another size"
    require(config, "batch_size", values > 1, f"{rule}: {remedy}")


def _check_parts(config: Config, images: int, devices: int) -> None:
    """Raise InputError if --accumulate has a part without images, or does not divide the batch."""
    parts = config.accumulate * devices
    last = images % config.batch_size or config.batch_size
    rule = f"does not divide a --batch-size of {config.batch_size} on {devices} device{'s' * (devices > 1)}"
    divides = config.accumulate == 1 or config.batch_size % parts == 0
    require(config, "accumulate", divides, f"{rule}: choose another of either")
    rule = (
        f"is more than the last batch has images, {last} of {images:,}: choose at most {last}, or another --batch-size"
    )
    require(config, "accumulate", config.accumulate <= last, rule)


def smallest_batch(config: Config, images: int, devices: int = 1) -> int:
    """The fewest images that are normalised together: of the last batch, a device's share, or a part of either."""
    last, parts = images % config.batch_size or config.batch_size, config.accumulate
    if config.batch_norm == "synchronised":
        return last // parts
    share = -(-last // (devices * parts)) * parts
    rest = last % share or share  # of the last device that has any
    return max(rest // parts, 1)  # parts that have none are not normalised
