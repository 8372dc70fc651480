"""Names and shapes of a network's tensors in PyTorch, in the layouts of published code.

Our path (params, layer2_0, shortcut_conv, kernel) is `layer2.0.shortcut.0.weight` in kuangliu/pytorch-cifar,
`layer2.0.downsample.0.weight` in torchvision and `conv3_x.0.shortcut.0.weight` in weiaicunzai/pytorch-cifar100, which
numbers the layers within a block and within the stem.
"""

import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
from flax.traverse_util import flatten_dict

from jresnet.models.build import check_image_size, variable_shapes
from jresnet.models.resnet import ResNet

Layout = Literal["kuangliu", "torchvision"]
"""The layouts that are written."""
Names = Literal["kuangliu", "torchvision", "weiaicunzai"]
"""The layouts that are read."""
Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""

# Our module names, and each layout's where they differ.
_MODULES: dict[Names, dict[str, str]] = {
    "kuangliu": {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1", "linear": "linear"},
    "torchvision": {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1", "linear": "fc"},
    "weiaicunzai": {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1", "linear": "fc"},
}
# The places of a block's layers in weiaicunzai's `residual_function`; a ReLU has no tensors. Those of the stem are in
# `conv1`, where there are two of them.
_PLACES = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
# Flax's names of a layer's arrays, and PyTorch's.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(path: tuple[str, ...], layout: Names) -> str:
    """PyTorch's name for a variable: (params, layer1_0, shortcut_conv, kernel) -> layer1.0.shortcut.0.weight."""
    _, *modules, leaf = path
    stage = re.fullmatch(r"layer(\d+)_(\d+)", modules[0])
    block = [f"layer{stage[1]}.{stage[2]}"] if stage else []
    names = [_MODULES[layout].get(name, name) for name in modules[len(block) :]]
    if layout == "weiaicunzai":
        block = [f"conv{int(stage[1]) + 1}_x.{stage[2]}"] if stage else []
        sequence = "residual_function" if stage else "conv1"
        names = [f"{sequence}.{_PLACES[name]}" if name in _PLACES else name for name in names]
    return ".".join((*block, *names, _LEAVES[leaf]))


def kuangliu_name(name: str) -> str:
    """A tensor's name of any layout as kuangliu's layout has it."""
    name = re.sub(r"^fc\.", "linear.", name.replace(".downsample.", ".shortcut."))
    places = {str(place): layer for layer, place in _PLACES.items()}
    name = re.sub(r"^conv1\.([01])\.", lambda found: f"{places[found[1]]}.", name)
    name = re.sub(r"^conv(\d{1,9})_x\.", lambda found: f"layer{int(found[1]) - 1}.", name)
    return re.sub(r"\.residual_function\.([013467])\.", lambda found: f".{places[found[1]]}.", name)


def layout_of(names: Iterable[str]) -> Names:
    """The layout of these names."""
    names = list(names)
    if any(".residual_function." in name for name in names):
        return "weiaicunzai"
    return "torchvision" if any(name.startswith("fc.") or ".downsample." in name for name in names) else "kuangliu"


def expected(
    model: ResNet, image_size: tuple[int, int], layout: Names
) -> tuple[dict[str, tuple[str, ...]], Shapes]:  # fmt: skip
    """For each name in a network's state dict: the path of our variable, and the shape of PyTorch's tensor.

    `num_batches_tracked` is left out. `image_size` is (height, width) in pixels.

    Raises:
      InputError: `image_size` is no size of images, or the pooling is larger than the last feature map.
    """
    check_image_size(image_size)
    variables = flatten_dict(variable_shapes(model, image_size))
    paths = {torch_name(path, layout): path for path in variables}
    return paths, {name: to_torch(np.broadcast_to(0, variables[path].shape)).shape for name, path in paths.items()}


def from_torch(array: np.ndarray) -> np.ndarray:
    """PyTorch's axes to Flax's: OIHW -> HWIO, OI -> IO; vectors stay."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(array: np.ndarray) -> np.ndarray:
    """Flax's axes to PyTorch's."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
