"""Residual networks: the family, built from a configuration, counted, described, and exchanged with PyTorch."""

from jresnet.models.blocks import BasicBlock, Bottleneck, PreactBlock
from jresnet.models.build import (
    check_network,
    explicit,
    from_config,
    initialiser,
    parameter_count,
    variable_shapes,
)
from jresnet.models.resnet import (
    VARIANTS,
    ResNet,
    imagenet_resnet18,
    imagenet_resnet50,
    preact_resnet18,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    resnet_se443,
    wide_resnet16_8,
    wide_resnet28_10,
)

__all__ = [
    "VARIANTS", "BasicBlock", "Bottleneck", "PreactBlock", "ResNet", "check_network", "explicit", "from_config",
    "imagenet_resnet18", "imagenet_resnet50", "initialiser", "parameter_count", "preact_resnet18", "resnet18",
    "resnet20", "resnet32", "resnet34", "resnet44", "resnet50", "resnet56", "resnet101", "resnet110", "resnet152",
    "resnet_se443", "variable_shapes", "wide_resnet16_8", "wide_resnet28_10",
]  # fmt: skip
