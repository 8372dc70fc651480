"""The options that describe a network."""

import dataclasses
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from jresnet import models
from jresnet.config import Config, Model, Shortcut, Stem
from jresnet.models.weights.recognise import OPTIONS
from jresnet.rules import numbers, require

if TYPE_CHECKING:
    from jresnet.use.classifier import Classifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options that replace a network's own values; None keeps them."""

    GROUP: ClassVar = "network"

    width: int | None = None
    """Channels of the first stage (default, here and below: the network's own)."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks per stage."""
    kernel_size: int | tuple[int, ...] | None = None
    """K: side of the blocks' convolution kernels, one number or one for each stage."""
    pool_size: int | None = None
    """P: side and stride of the final average pooling; 0: the whole feature map, as of AdaptiveAvgPool2d(1)."""
    shortcut: Shortcut | None = None
    """Of blocks that change the shape: projection, a 1x1 convolution, or padding with zeros."""
    stem: Stem | None = None
    """small: one convolution; small-pool: and 3x3 max pooling of stride 2; imagenet: 7x7 of stride 2, and pooling."""
    epsilon: float | None = None
    """Added to the variance by every batch normalisation."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images in pixels (default: 32 32, or 224 224 for the imagenet networks)."""

    def __post_init__(self) -> None:
        """Check what can be checked whichever the network."""
        Config(**self.given)
        sides = numbers(self.image_size)
        within = all(1 <= side < 2**31 for side in sides)
        require(self, "image_size", within, "must be from 1 to 2147483647")
        few = math.prod(sides) < 2**31
        require(self, "image_size", few, "must be below 2147483648 pixels in all, as JAX counts: choose smaller images")

    @property
    def given(self) -> dict[str, Any]:
        """The options of `Config` that were given."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}

    def config(self, model: Model) -> Config:
        """The configuration of network `model` with these options."""
        return Config(model=model, **self.given)

    def size(self, network: models.ResNet) -> tuple[int, int]:
        """(height, width) of the images in pixels: as given, else as usual for the network."""
        return self.image_size or models.usual_image_size(network)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsOptions(NetworkOptions):
    """Options that describe a file of weights; the record of a run says as much by itself."""

    GROUP: ClassVar = "weights"

    model: Model | None = None
    """Network that a file of weights belongs to (default: the one that fits); --width and the like say more of it."""
    key: str | None = None
    """Where a file holds several state dicts: the dotted path of one in it, as model_ema."""
    mean: tuple[float, float, float] | None = None
    """Of a file: mean of each channel that the images were normalised with, on a scale of 0 to 1."""
    std: tuple[float, float, float] | None = None
    """Of a file: standard deviation of each channel, on the same scale."""
    classes: tuple[str, ...] | None = None
    """Of a file: names of the classes (default: 0 1 2 ...)."""

    def refuse(self, names: Collection[str], rule: str) -> None:
        """Raise InputError with this rule if an option of these names is given."""
        for name in names:
            require(self, name, getattr(self, name) is None, rule)

    @property
    def of_file(self) -> dict[str, Any]:
        """The arguments of `Classifier.load` that describe a file; those that are not given are None."""
        names = ("model", "key", "mean", "std", "classes", "image_size")
        return {name: getattr(self, name) for name in names} | self.given

    def load(self, path: str) -> "Classifier":
        """The network of a run, or of a file as these options describe it; InputError as `Classifier.load`."""
        from jresnet.use.classifier import Classifier  # with Orbax, which not every command needs

        return Classifier.load(path, **self.of_file)
