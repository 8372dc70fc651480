"""Residual networks for small images (report section 3.3.1; He et al. 2015, arXiv 1512.03385), in Flax Linen.

`ResNet` is the whole family; the named networks below it are each a line that says what sets it apart.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jresnet.config import Model
from jresnet.errors import InputError
from jresnet.models.blocks import BasicBlock, Block, Bottleneck, PreactBlock, Shortcut, SqueezeExcitation, torch_dense
from jresnet.models.layers import AvgPool, BatchNorm, Conv, Dropout, MaxPool

Stem = Literal["small", "imagenet"]


class ResNet(nn.Module):
    """The report's network: stem, stages of residual blocks, P x P average pooling, one linear layer (section 3.3.1).

    Stages have width, 2 x width, 4 x width, ... channels and strides 1, 2, 2, ...
    The softmax belongs to the loss and to prediction: the network returns logits.

    Attributes:
      stage_sizes: blocks per stage; any number of stages.
      block: BasicBlock, Bottleneck or PreactBlock.
      num_classes: logits per image.
      width: channels of the first stage.
      kernel_size: K, side of the blocks' kernels, odd; one for all stages or one for each. The stem of
        small images has the first stage's.
      pool_size: P, side and stride of the average pooling, in cells of the last feature map; None: the
        whole map.
      dropout: rate before the linear layer.
      stem: "small", one KxK convolution, or "imagenet", a 7x7 one of stride 2 and max pooling.
      stem_width: channels of the stem; None: as many as `width`.
      shortcut: of blocks that change the shape: "projection" by a 1x1 convolution, or "padding" with
        zeros (options B and A of He et al. 2015).
      block_dropout: rate inside PreactBlock.
      final_norm: BatchNorm and ReLU after the last PreactBlock.
      squeeze: reduction of a squeeze-and-excitation after the stem; None: there is none.
      dtype: of the arithmetic.
      param_dtype: of parameters, statistics and logits.
      axis_name: mapped axis whose devices share one batch.
      local_norm: each device normalises its share of the batch by itself.

    Raises:
      InputError: options that do not go together.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block: type[Block] = BasicBlock
    num_classes: int = 10
    width: int = 64
    kernel_size: int | tuple[int, ...] = 3
    pool_size: int | None = 4
    dropout: float = 0.0
    stem: Stem = "small"
    stem_width: int | None = None
    shortcut: Shortcut = "projection"
    block_dropout: float = 0.0
    final_norm: bool = False
    squeeze: int | None = None
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    local_norm: bool = False

    def __post_init__(self):
        """Check that the options go together."""
        sides, stages = self.kernel_sizes, len(self.stage_sizes)
        refuse_unless(len(sides) == stages, f"kernel_size {sides}: give one number, or one for each of {stages} stages")
        refuse_unless(all(side % 2 for side in sides), f"kernel_size {self.kernel_size}: must be odd")
        refuse_unless(self.stem in get_args(Stem), f"stem {self.stem}: must be one of {get_args(Stem)}")
        refuse_unless(self.shortcut in get_args(Shortcut), f"shortcut {self.shortcut}: one of {get_args(Shortcut)}")
        preactivated = self.block.preactivated
        refuse_unless(preactivated or not self.block_dropout, "block_dropout: only PreactBlock drops out; use dropout")
        refuse_unless(preactivated or not self.final_norm, "final_norm: only PreactBlock leaves one to do")
        channels = self.stem_width or self.width
        squeezed = (
            f"squeeze {self.squeeze}: exceeds the stem's channels, {channels}: choose at most that, or more width"
        )
        refuse_unless(channels // (self.squeeze or 1) >= 1, squeezed)
        super().__post_init__()

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Side of the kernels, by stage."""
        one = isinstance(self.kernel_size, int)
        return (self.kernel_size,) * len(self.stage_sizes) if one else tuple(self.kernel_size)  # type: ignore[return-value,arg-type]

    def feature_map(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the last feature map in cells: every stride of 2 halves the sides, rounding up."""
        halvings = len(self.stage_sizes) - 1 + (2 if self.stem == "imagenet" else 0)
        height, width = (-(-side // 2**halvings) for side in image_size)
        return height, width

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Classify images.

        Args:
          images: float [batch, height, width, channels], normalised.
          train: use and update batch statistics, and drop out (needs the rng "dropout" if a rate is above 0).
          mask: bool [batch], false for padding that batch statistics must not count; None: all count.

        Returns:
          logits: [batch, num_classes], of param_dtype.

        Raises:
          InputError: the pooling is larger than the last feature map.
        """
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        axis_name = None if self.local_norm else self.axis_name
        norm: Callable = partial(BatchNorm, axis_name=axis_name, param_dtype=self.param_dtype)
        dropout = partial(Dropout, self.block_dropout, self.axis_name)
        norm_options: dict[str, Any] = {"train": train, "mask": mask}
        x = self.stem_of(images, partial(Conv, **types), norm, norm_options)
        for stage, (depth, side) in enumerate(zip(self.stage_sizes, self.kernel_sizes, strict=True)):
            conv = partial(Conv, side=side, **types)
            for index in range(depth):
                x = self.block(
                    self.width * 2**stage, 2 if stage > 0 and index == 0 else 1, conv, norm,
                    self.shortcut, dropout, name=f"layer{stage + 1}_{index}",
                )(x, **norm_options)  # fmt: skip
        if self.final_norm:
            x = nn.relu(norm(name="bn")(x, **norm_options))
        return self.head(x, train)

    def stem_of(self, images: jax.Array, conv: Callable, norm: Callable, norm_options: dict) -> jax.Array:
        """What comes before the stages, [batch, height, width, 3] -> [batch, rows, columns, stem's channels].

        Rows and columns are height and width, or a quarter of them for the imagenet stem, rounded up. Blocks
        that activate first get the convolution alone.
        """
        features = self.stem_width or self.width
        large = self.stem == "imagenet"
        x = conv(features, side=7 if large else self.kernel_sizes[0], stride=2 if large else 1, name="conv1")(images)
        if not self.block.preactivated:
            x = nn.relu(norm(name="bn1")(x, **norm_options))
        if large:
            x = MaxPool(3, 2, name="max_pool")(x)
        if self.squeeze is not None:
            x = SqueezeExcitation(self.squeeze, self.dtype, self.param_dtype, name="se")(x)
        return x

    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Pool, flatten, drop out, apply the linear layer: [batch, height, width, channels] -> [batch, num_classes].

        Raises:
          InputError: the pooling is larger than the feature map.
        """
        height, width = x.shape[1:3]
        refuse_unless(
            self.pool_size is None or self.pool_size <= min(height, width),
            f"pool_size {self.pool_size}: exceeds the last feature map, {height} x {width}: lower it",
        )
        side = (height, width) if self.pool_size is None else (self.pool_size, self.pool_size)
        x = AvgPool(side, name="avg_pool")(x)
        # In PyTorch's order, channels before rows and columns, so that its linear weights fit as they are.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1).astype(self.param_dtype)
        x = Dropout(self.dropout, self.axis_name)(x, train)
        types: dict[str, Any] = {"dtype": self.param_dtype, "param_dtype": self.param_dtype}
        return torch_dense(self.num_classes, x.shape[-1], name="linear", **types)(x)


def refuse_unless(holds: bool, message: str) -> None:
    """Raise InputError with `message` unless `holds`."""
    if not holds:
        raise InputError(message)


resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
"""The report's: ResNet-18 of He et al. 2015 (arXiv 1512.03385) with kuangliu/pytorch-cifar's stem for small images."""
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
"""ResNet-34, likewise."""
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
"""ResNet-50, likewise, its strides in the 3x3 convolutions."""
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck)
"""ResNet-101, likewise."""
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck)
"""ResNet-152, likewise."""
preact_resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=PreactBlock)
"""PreActResNet18 of kuangliu/pytorch-cifar; He et al. 2016 (arXiv 1603.05027) add `final_norm`."""
resnet20 = partial(ResNet, stage_sizes=(3, 3, 3), width=16, pool_size=None, shortcut="padding")
"""ResNet-20 for CIFAR, He et al. 2015, section 4.2: 6n + 2 layers, option A; option B is `shortcut="projection"`."""
resnet32 = partial(resnet20, stage_sizes=(5, 5, 5))
"""ResNet-32 for CIFAR, likewise."""
resnet44 = partial(resnet20, stage_sizes=(7, 7, 7))
"""ResNet-44 for CIFAR, likewise."""
resnet56 = partial(resnet20, stage_sizes=(9, 9, 9))
"""ResNet-56 for CIFAR, likewise."""
resnet110 = partial(resnet20, stage_sizes=(18, 18, 18))
"""ResNet-110 for CIFAR, likewise."""
wide_resnet28_10 = partial(
    ResNet, stage_sizes=(4, 4, 4), block=PreactBlock, width=160, stem_width=16, pool_size=None,
    final_norm=True, block_dropout=0.3,
)  # fmt: skip
"""WRN-28-10 of Zagoruyko and Komodakis 2016 (arXiv 1605.07146): 6n + 4 layers, 10 x 16 channels, their dropout."""
wide_resnet16_8 = partial(wide_resnet28_10, stage_sizes=(2, 2, 2), width=128)
"""WRN-16-8, likewise."""
resnet_se443 = partial(ResNet, stage_sizes=(4, 4, 3), pool_size=None, squeeze=16)
"""Thakur et al. 2023 (arXiv 2306.12100): 96.04 % on CIFAR-10 under the report's budget."""
imagenet_resnet18 = partial(resnet18, stem="imagenet", pool_size=None, num_classes=1000)
"""ResNet-18 for images of about 224 x 224, as torchvision's resnet18."""
imagenet_resnet50 = partial(resnet50, stem="imagenet", pool_size=None, num_classes=1000)
"""ResNet-50 for images of about 224 x 224, as torchvision's resnet50."""

VARIANTS: dict[Model, Callable[..., ResNet]] = {
    "resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50, "resnet101": resnet101, "resnet152": resnet152,
    "preact_resnet18": preact_resnet18,
    "resnet20": resnet20, "resnet32": resnet32, "resnet44": resnet44, "resnet56": resnet56, "resnet110": resnet110,
    "wide_resnet16_8": wide_resnet16_8, "wide_resnet28_10": wide_resnet28_10, "resnet_se443": resnet_se443,
    "imagenet_resnet18": imagenet_resnet18, "imagenet_resnet50": imagenet_resnet50,
}  # fmt: skip
"""The networks above by the names that `Config.model` takes."""
