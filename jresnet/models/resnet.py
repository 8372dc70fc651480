"""Residual networks (report section 3.3.1; He et al. 2015, arXiv 1512.03385) in Flax Linen."""

import math
from collections.abc import Callable
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jresnet.config import Shortcut, Stem
from jresnet.models.blocks import BasicBlock, Block, SqueezeExcitation
from jresnet.models.layers import BatchNorm, Dropout, torch_conv, torch_dense
from jresnet.models.options import check_options


class ResNet(nn.Module):
    """The report's network: stem, stages of residual blocks, P x P average pooling, one linear layer (section 3.3.1).

    Stages have width, 2 x width, 4 x width, ... channels and strides 1, 2, 2, ...
    The softmax belongs to the loss and to prediction: the network returns logits.

    On a CPU, gradients of plain convolutions inside a loop (`lax.scan`, `lax.fori_loop`) are about 30 times slower
    than outside it, so a training loop there should set `conv_general_dilated_cls=conv_for("cpu")`.

    Attributes:
      stage_sizes: blocks per stage; any number of stages.
      block_cls: BasicBlock, Bottleneck or PreactBlock.
      num_classes: logits per image.
      width: channels of the first stage.
      kernel_size: K, side of the blocks' kernels, odd; one for all stages or one for each. The small stem has the
        first stage's.
      pool_size: P, side and stride of the average pooling, in cells of the last feature map; None: the whole map.
      dropout: rate before the linear layer.
      stem: "small", one KxK convolution; "small-pool", the same and 3x3 max pooling of stride 2, as in
        huyvnphan/PyTorch_CIFAR10; or "imagenet", a 7x7 convolution of stride 2 and that pooling.
      stem_width: channels of the stem; None: `width`.
      shortcut: of blocks that change the shape: "projection" by a 1x1 convolution, or "padding" with
        zeros (options B and A of He et al. 2015).
      block_dropout: rate inside each PreactBlock.
      final_norm: BatchNorm and ReLU after the last PreactBlock.
      squeeze: reduction of a squeeze-and-excitation after the stem; None: none.
      epsilon: that every batch normalisation adds to the variance; the default is PyTorch's.
      zero_init: each block's last batch normalisation begins with scale 0, so that the block begins as its shortcut
        (Goyal et al. 2017, arXiv 1706.02677; torchvision's `zero_init_residual`); not of PreactBlocks.
      frozen: stages whose batch normalisation and dropout are those of evaluation in training too; 0 is the stem.
      dtype: of the arithmetic.
      param_dtype: of parameters, statistics and logits.
      axis_name: mapped axis whose devices share one batch.
      local_norm: each device normalises by the statistics of its share of the batch.
      conv_general_dilated_cls: as of `nn.Conv`: returns the convolution, a function with the signature of
        `lax.conv_general_dilated`; None: that function itself. See `conv_for`.
      norm_cls: the batch normalisation, see `norm_for`.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block_cls: type[Block] = BasicBlock
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
    epsilon: float = 1e-5
    zero_init: bool = False
    frozen: tuple[int, ...] = ()
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    local_norm: bool = False
    conv_general_dilated_cls: Callable[[], Callable[..., jax.Array]] | None = None
    norm_cls: type[BatchNorm] = BatchNorm

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Side of the kernels, by stage."""
        if isinstance(self.kernel_size, int):
            return (self.kernel_size,) * len(self.stage_sizes)
        return tuple(self.kernel_size)

    @property
    def pools_first(self) -> bool:
        """Whether max pooling follows the stem's convolution."""
        return self.stem != "small"

    def feature_map(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the last feature map in cells; each stride of 2 halves both sides, rounding up."""
        halvings = len(self.stage_sizes) - 1 + (self.stem == "imagenet") + self.pools_first
        height, width = (-(-side // 2**halvings) for side in image_size)
        return height, width

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Classify images.

        Args:
          images: float [batch, height, width, channels], normalised.
          train: use and update batch statistics, and drop out (needs the rng "dropout" if a rate is above 0).
          mask: bool [batch], false for padding, which batch statistics exclude; None: no padding.

        Returns:
          logits: [batch, num_classes], of param_dtype.

        Raises:
          AssertionError: images or mask have another rank, shape or dtype.
          InputError: options that do not go together, or pooling larger than the last feature map.
        """
        chex.assert_rank(images, 4, custom_message="images must be [batch, height, width, channels]")
        chex.assert_type(images, float, custom_message="images must be floating point: normalise them")
        if mask is not None:
            chex.assert_shape(mask, images.shape[:1], custom_message="mask must be [batch]")
            chex.assert_type(mask, bool, custom_message="mask must be bool: true for images, false for padding")
        check_options(self, (images.shape[1], images.shape[2]))
        conv = partial(
            torch_conv, dtype=self.dtype, param_dtype=self.param_dtype,
            conv_general_dilated_cls=self.conv_general_dilated_cls,
        )  # fmt: skip
        norms = partial(
            self.norm_cls, axis_name=None if self.local_norm else self.axis_name, epsilon=self.epsilon,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        fixed = [not train or stage in self.frozen for stage in range(len(self.stage_sizes) + 1)]
        norm = partial(norms, use_running_average=fixed[0])

        kernel_size, strides = (7, 2) if self.stem == "imagenet" else (self.kernel_sizes[0], 1)
        x = conv(self.stem_width or self.width, kernel_size, strides, name="conv1")(images)
        if not self.block_cls.preactivated:
            x = norm(name="bn1")(x, mask=mask, relu=True)
        if self.pools_first:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        if self.squeeze is not None:
            x = SqueezeExcitation(self.squeeze, self.dtype, self.param_dtype, name="se")(x)

        for stage, (blocks, kernel_size) in enumerate(zip(self.stage_sizes, self.kernel_sizes, strict=True)):
            norm = partial(norms, use_running_average=fixed[stage + 1])
            dropout = partial(Dropout, self.block_dropout, axis_name=self.axis_name, deterministic=fixed[stage + 1])
            for block in range(blocks):
                x = self.block_cls(
                    features=self.width * 2**stage,
                    kernel_size=kernel_size,
                    strides=2 if stage > 0 and block == 0 else 1,
                    conv=conv,
                    norm=norm,
                    shortcut=self.shortcut,
                    dropout=dropout,
                    zero_init=self.zero_init,
                    name=f"layer{stage + 1}_{block}",
                )(x, mask=mask)
        if self.final_norm:
            x = norms(use_running_average=not train, name="bn")(x, mask=mask, relu=True)

        window = x.shape[1:3] if self.pool_size is None else (self.pool_size, self.pool_size)
        # nn.avg_pool divides by an integer array, which strict dtype promotion refuses.
        x = nn.pooling.pool(x, 0.0, jax.lax.add, window, window, "VALID") / math.prod(window)
        # Flatten in PyTorch's order, channels before rows and columns, so that its linear weights fit unchanged.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1).astype(self.param_dtype)
        x = Dropout(self.dropout, axis_name=self.axis_name, deterministic=not train)(x)
        linear = partial(torch_dense, dtype=self.param_dtype, param_dtype=self.param_dtype)
        return linear(self.num_classes, x.shape[-1], name="linear")(x)
