"""Residual networks for small images (report section 3.3.1; He et al. 2015, arXiv 1512.03385), in Flax Linen."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.layers import BatchNorm, Conv, torch_bias_init, torch_weight_init

Stem = Literal["small", "imagenet"]
Shortcut = Literal["projection", "padding"]


class Block(nn.Module):
    """What the residual blocks have in common.

    Attributes:
      features: channels of the block, before `expansion`.
      stride: step of the block in pixels.
      conv: makes a convolution from (features, side=, stride=, name=).
      norm: makes a batch normalisation from (name=).
      shortcut: what takes the place of x where the block changes the shape; see `ResNet`.
      dropout: rate between the convolutions, read by PreactBlock.
    """

    features: int
    stride: int
    conv: Callable
    norm: Callable
    shortcut: Shortcut = "projection"
    dropout: float = 0.0
    expansion: ClassVar[int] = 1
    preactivated: ClassVar[bool] = False

    def changes(self, x: jax.Array) -> bool:
        """Whether the block's output has another shape than x, so that x itself cannot be added."""
        return self.stride > 1 or x.shape[-1] != self.features * self.expansion

    def padded(self, x: jax.Array) -> jax.Array:
        """Every stride-th pixel of x, with channels of zeros on both sides (He et al. 2015, option A)."""
        missing = self.features * self.expansion - x.shape[-1]
        return jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(missing // 2, missing - missing // 2)])

    def projected(self, x: jax.Array) -> jax.Array:
        """x under a strided 1x1 convolution."""
        outputs = self.features * self.expansion
        return self.conv(outputs, side=1, stride=self.stride, name="shortcut_conv")(x)

    def skip(self, x: jax.Array, norm_options: dict) -> jax.Array:
        """x itself, or what stands for it in the output's shape."""
        if not self.changes(x):
            return x
        if self.shortcut == "padding":
            return self.padded(x)
        return self.norm(name="shortcut_bn")(self.projected(x), **norm_options)


class BasicBlock(Block):
    """Two convolutions and a skip connection; the first convolution strides (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), features]."""
        y = self.conv(self.features, stride=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **norm_options))
        y = self.conv(self.features, name="conv2")(y)
        y = self.norm(name="bn2")(y, **norm_options)
        return nn.relu(y + self.skip(x, norm_options))


class Bottleneck(Block):
    """1x1, KxK and 1x1 convolutions and a skip connection; the KxK one strides, the last one has 4 x features."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), 4 x features]."""
        y = self.conv(self.features, side=1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **norm_options))
        y = self.conv(self.features, stride=self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, **norm_options))
        y = self.conv(self.features * self.expansion, side=1, name="conv3")(y)
        y = self.norm(name="bn3")(y, **norm_options)
        return nn.relu(y + self.skip(x, norm_options))


class PreactBlock(Block):
    """BatchNorm and ReLU before each of two convolutions (He et al. 2016, arXiv 1603.05027).

    Where the block changes the shape, the shortcut starts from the activated input and has no batch
    normalisation; dropout acts between the convolutions (Zagoruyko and Komodakis 2016, arXiv 1605.07146).
    """

    preactivated: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, **norm_options) -> jax.Array:
        """[batch, height, width, inputs] -> [batch, ceil(height / stride), ceil(width / stride), features]."""
        active = nn.relu(self.norm(name="bn1")(x, **norm_options))
        y = self.conv(self.features, stride=self.stride, name="conv1")(active)
        y = nn.relu(self.norm(name="bn2")(y, **norm_options))
        y = nn.Dropout(self.dropout, deterministic=not norm_options["train"])(y)
        y = self.conv(self.features, name="conv2")(y)
        if not self.changes(x):
            return y + x
        return y + (self.padded(active) if self.shortcut == "padding" else self.projected(active))


class SqueezeExcitation(nn.Module):
    """Scale every channel by a weight from 0 to 1 that depends on all channels' means.

    The squeeze-and-excitation block of Hu et al. 2017 (arXiv 1709.01507), its linear layers with biases.

    Attributes:
      reduction: how many times fewer channels the hidden layer has.
      dtype: of the arithmetic.
      param_dtype: of the parameters.
    """

    reduction: int = 16
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels], scaled; shape and dtype stay."""
        channels = x.shape[-1]
        dense = partial(torch_dense, dtype=self.dtype, param_dtype=self.param_dtype)
        y = dense(channels // self.reduction, channels, name="fc1")(x.mean((1, 2)))
        y = dense(channels, channels // self.reduction, name="fc2")(nn.relu(y))
        return x * nn.sigmoid(y)[:, None, None, :].astype(x.dtype)


def torch_dense(features: int, inputs: int, **options: Any) -> nn.Dense:
    """A linear layer from `inputs` to `features` numbers with torch.nn.Linear's initial weights."""
    return nn.Dense(features, kernel_init=torch_weight_init, bias_init=torch_bias_init(inputs), **options)


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
      axis_name: mapped axis whose devices share one batch, for batch normalisation.

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
        reduced = (self.stem_width or self.width) // (self.squeeze or 1)
        refuse_unless(reduced >= 1, f"squeeze {self.squeeze}: exceeds the stem's channels: choose a smaller one")
        super().__post_init__()

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Side of the kernels, by stage."""
        one = isinstance(self.kernel_size, int)
        return (self.kernel_size,) * len(self.stage_sizes) if one else tuple(self.kernel_size)  # type: ignore[return-value,arg-type]

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
        norm: Callable = partial(BatchNorm, axis_name=self.axis_name, param_dtype=self.param_dtype)
        norm_options: dict[str, Any] = {"train": train, "mask": mask}
        x = self.stem_of(images, partial(Conv, **types), norm, norm_options)
        for stage, (depth, side) in enumerate(zip(self.stage_sizes, self.kernel_sizes, strict=True)):
            conv = partial(Conv, side=side, **types)
            for index in range(depth):
                x = self.block(
                    self.width * 2**stage, 2 if stage > 0 and index == 0 else 1, conv, norm,
                    self.shortcut, self.block_dropout, name=f"layer{stage + 1}_{index}",
                )(x, **norm_options)  # fmt: skip
        if self.final_norm:
            x = nn.relu(norm(name="bn")(x, **norm_options))
        return self.head(x, train)

    def stem_of(self, images: jax.Array, conv: Callable, norm: Callable, norm_options: dict) -> jax.Array:
        """What comes before the stages; blocks that activate first get the convolution alone."""
        features = self.stem_width or self.width
        large = self.stem == "imagenet"
        x = conv(features, side=7 if large else self.kernel_sizes[0], stride=2 if large else 1, name="conv1")(images)
        if not self.block.preactivated:
            x = nn.relu(norm(name="bn1")(x, **norm_options))
        if large:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        if self.squeeze is not None:
            x = SqueezeExcitation(self.squeeze, self.dtype, self.param_dtype, name="se")(x)
        return x

    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Pool, flatten, drop out and apply the linear layer: [batch, height, width, channels] -> logits."""
        side = x.shape[1:3] if self.pool_size is None else (self.pool_size, self.pool_size)
        refuse_unless(
            max(side) <= min(x.shape[1:3]) or self.pool_size is None,
            f"pool_size {self.pool_size}: exceeds the last feature map, {x.shape[1]} x {x.shape[2]}: lower it",
        )
        x = nn.avg_pool(x, side, strides=side)
        # In PyTorch's order, channels before rows and columns, so that its linear weights fit as they are.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1).astype(self.param_dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        types: dict[str, Any] = {"dtype": self.param_dtype, "param_dtype": self.param_dtype}
        return torch_dense(self.num_classes, x.shape[-1], name="linear", **types)(x)


def refuse_unless(holds: bool, message: str) -> None:
    """Raise InputError with `message` unless `holds`."""
    if not holds:
        raise InputError(message)


# He et al. 2015 (arXiv 1512.03385), with the stem of small images (kuangliu/pytorch-cifar).
resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck)
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck)
# As kuangliu/pytorch-cifar's PreActResNet18; He et al. 2016 add `final_norm`.
preact_resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=PreactBlock)
# He et al. 2015, section 4.2: 6n + 2 layers for CIFAR, option A.
resnet20 = partial(ResNet, stage_sizes=(3, 3, 3), width=16, pool_size=None, shortcut="padding")
resnet32 = partial(resnet20, stage_sizes=(5, 5, 5))
resnet44 = partial(resnet20, stage_sizes=(7, 7, 7))
resnet56 = partial(resnet20, stage_sizes=(9, 9, 9))
resnet110 = partial(resnet20, stage_sizes=(18, 18, 18))
# Zagoruyko and Komodakis 2016 (arXiv 1605.07146): depth 6n + 4, k times 16 channels; 0.3 is their dropout on CIFAR.
wide_resnet28_10 = partial(
    ResNet, stage_sizes=(4, 4, 4), block=PreactBlock, width=160, stem_width=16, pool_size=None,
    final_norm=True, block_dropout=0.3,
)  # fmt: skip
wide_resnet16_8 = partial(wide_resnet28_10, stage_sizes=(2, 2, 2), width=128)
# Thakur et al. 2023 (arXiv 2306.12100): 96.04 % on CIFAR-10 under the report's budget.
resnet_se443 = partial(ResNet, stage_sizes=(4, 4, 3), pool_size=None, squeeze=16)
# For images of about 224 x 224, as torchvision's resnet18 and resnet50.
imagenet_resnet18 = partial(resnet18, stem="imagenet", pool_size=None, num_classes=1000)
imagenet_resnet50 = partial(resnet50, stem="imagenet", pool_size=None, num_classes=1000)


def from_config(config: Config, num_classes: int, axis_name: str | None = None) -> ResNet:
    """The network a configuration describes, for `num_classes` classes."""
    return ResNet(
        stage_sizes=config.blocks,
        num_classes=num_classes,
        width=config.width,
        kernel_size=config.kernel_size,
        pool_size=config.pool_size,
        dropout=config.dropout,
        dtype=jnp.dtype(config.precision),
        axis_name=axis_name,
    )
