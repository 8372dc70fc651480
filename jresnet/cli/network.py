"""The options that describe a network."""

import dataclasses

from jresnet import models
from jresnet.config import Config, Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options that replace a network's own values; None keeps them."""

    width: int | None = None
    """Channels of the first stage (default, here and below: the network's own)."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks per stage."""
    kernel_size: int | tuple[int, ...] | None = None
    """K: side of the blocks' convolution kernels, one number or one for each stage."""
    pool_size: int | None = None
    """P: side and stride of the final average pooling."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images in pixels (default: 32 32, or 224 224 for the imagenet networks)."""

    def config(self, model: Model) -> Config:
        """The configuration of network `model` with these options."""
        return Config(
            model=model, width=self.width, blocks=self.blocks, kernel_size=self.kernel_size, pool_size=self.pool_size
        )

    def size(self, network: models.ResNet) -> tuple[int, int]:
        """(height, width) of the images in pixels: as given, else CIFAR's or ImageNet's after the usual crop."""
        return self.image_size or ((224, 224) if network.stem == "imagenet" else (32, 32))
