"""The networks by name; those after the report's are one line each."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from jresnet.config import Model
from jresnet.models.blocks import Bottleneck, PreactBlock
from jresnet.models.resnet import ResNet


def resnet18(stage_sizes: tuple[int, ...] = (2, 2, 2, 2), **options: Any) -> ResNet:
    """The report's: ResNet-18 of He et al. 2015 (arXiv 1512.03385) with kuangliu/pytorch-cifar's stem for small images.

    >>> import jax, jresnet
    >>> model = jresnet.resnet18(num_classes=10, width=4)
    >>> images = jax.numpy.zeros((2, 32, 32, 3))
    >>> variables = model.init(jax.random.key(0), images, train=False)
    >>> model.apply(variables, images, train=False).shape
    (2, 10)

    Args:
      stage_sizes: blocks per stage.
      **options: the other fields of `ResNet`, which these functions share.
    """
    return ResNet(stage_sizes, **options)


resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3))
"""ResNet-34 with the same stem."""
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block_cls=Bottleneck)
"""ResNet-50 with the same stem and its strides in the 3x3 convolutions."""
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block_cls=Bottleneck)
"""ResNet-101, otherwise as `resnet50`."""
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block_cls=Bottleneck)
"""ResNet-152, otherwise as `resnet50`."""
preact_resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block_cls=PreactBlock)
"""PreActResNet18 of kuangliu/pytorch-cifar; He et al. 2016 (arXiv 1603.05027) add `final_norm`."""
resnet20 = partial(ResNet, stage_sizes=(3, 3, 3), width=16, pool_size=None, shortcut="padding")
"""ResNet-20 for CIFAR, He et al. 2015, section 4.2: 6n + 2 layers, option A; option B is `shortcut="projection"`."""
resnet32 = partial(resnet20, stage_sizes=(5, 5, 5))
"""ResNet-32 for CIFAR, otherwise as `resnet20`."""
resnet44 = partial(resnet20, stage_sizes=(7, 7, 7))
"""ResNet-44 for CIFAR, otherwise as `resnet20`."""
resnet56 = partial(resnet20, stage_sizes=(9, 9, 9))
"""ResNet-56 for CIFAR, otherwise as `resnet20`."""
resnet110 = partial(resnet20, stage_sizes=(18, 18, 18))
"""ResNet-110 for CIFAR, otherwise as `resnet20`."""
wide_resnet28_10 = partial(
    ResNet, stage_sizes=(4, 4, 4), block_cls=PreactBlock, width=160, stem_width=16, pool_size=None,
    final_norm=True, block_dropout=0.3,
)  # fmt: skip
"""WRN-28-10 of Zagoruyko and Komodakis 2016 (arXiv 1605.07146): 6n + 4 layers, 10 x 16 channels, their dropout."""
wide_resnet16_8 = partial(wide_resnet28_10, stage_sizes=(2, 2, 2), width=128)
"""WRN-16-8, otherwise as `wide_resnet28_10`."""
resnet_se443 = partial(ResNet, stage_sizes=(4, 4, 3), pool_size=None, squeeze=16)
"""Thakur et al. 2023 (arXiv 2306.12100): 96.04 % on CIFAR-10 under the report's budget."""
imagenet_resnet18 = partial(resnet18, stem="imagenet", pool_size=None, num_classes=1000)
"""ResNet-18 for images of about 224 x 224, as torchvision's resnet18."""
imagenet_resnet50 = partial(resnet50, stem="imagenet", pool_size=None, num_classes=1000)
"""ResNet-50 for images of about 224 x 224, as torchvision's resnet50."""

VARIANTS: dict[Model, Callable[..., ResNet]] = {name: globals()[name] for name in get_args(Model)}
"""The networks above by the names that `Config.model` takes."""
