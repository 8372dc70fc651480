"""Residual networks: built by name or from a configuration, summarised, drawn, and exchanged with PyTorch."""

from typing import get_args

from jresnet.config import Model
from jresnet.models.blocks import BasicBlock, Bottleneck, PreactBlock
from jresnet.models.build import (
    check_network,
    check_training,
    fill_defaults,
    from_config,
    init_fn,
    padded,
    parameter_count,
    smallest_batch,
    usual_image_size,
    variable_shapes,
)
from jresnet.models.convolution import conv_for
from jresnet.models.one_pass import norm_for
from jresnet.models.resnet import ResNet
from jresnet.models.variants import *  # noqa: F403  # the networks by name
from jresnet.models.variants import VARIANTS

__all__ = [
    "VARIANTS", "BasicBlock", "Bottleneck", "PreactBlock", "ResNet", "check_network", "check_training", "conv_for",
    "fill_defaults", "from_config", "init_fn", "norm_for", "padded", "parameter_count", "smallest_batch",
    "usual_image_size", "variable_shapes", *get_args(Model),
]  # fmt: skip
