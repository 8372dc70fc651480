"""PyTorch's weights in and out: the public name of `jresnet.models.torch_weights`."""

from jresnet.models.torch_weights import *  # noqa: F403
