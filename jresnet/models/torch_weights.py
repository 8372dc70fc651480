"""Weights from PyTorch and back: state dicts in the layouts of kuangliu/pytorch-cifar and torchvision.

A state dict maps names to tensors: convolutions [outputs, inputs, rows, columns], linear layers
[outputs, inputs]. Flax's kernels are [rows, columns, inputs, outputs] and [inputs, outputs]. The layouts
differ in two names: `shortcut` and `linear` in kuangliu's, `downsample` and `fc` in torchvision's.

Every array and tensor returned owns its memory and is writable or, a JAX array, immutable.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jresnet.errors import InputError
from jresnet.models import ResNet, variable_shapes
from jresnet.models.state_dicts import clean
from jresnet.models.tensors import array_of as _array
from jresnet.models.torch_files import load, save

__all__ = [
    "Layout", "classes_of", "expected", "from_state_dict", "layout_of", "load", "relayout", "save", "to_state_dict",
    "torch_name",
]  # fmt: skip

Layout = Literal["kuangliu", "torchvision"]

# Our module names, and each layout's where they differ.
_MODULES = {
    "kuangliu": {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1", "linear": "linear"},
    "torchvision": {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1", "linear": "fc"},
}
# Flax's names of a layer's arrays, and PyTorch's.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# The counter, int64 [], of every batch normalisation in PyTorch.
_BATCHES = ".num_batches_tracked"


def from_state_dict(
    state_dict: Mapping[str, Any] | str | os.PathLike[str], model: ResNet, image_size: tuple[int, int] = (32, 32)
) -> dict[str, Any]:
    """Variables of `model` from a PyTorch state dict in either layout.

    Prefixes of DataParallel and torch.compile are dropped. `num_batches_tracked` is ignored: PyTorch uses it only
    for a batch normalisation without momentum.

    >>> import jax, jresnet
    >>> model = jresnet.resnet18(num_classes=10, width=4)
    >>> variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 32, 32, 3)), train=False)
    >>> state_dict = jresnet.torch_weights.to_state_dict(variables, model)  # or torch.load("resnet18.pth")
    >>> state_dict["layer2.0.shortcut.0.weight"].shape
    (8, 4, 1, 1)
    >>> restored = jresnet.torch_weights.from_state_dict(state_dict, model)
    >>> bool(jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), variables, restored)))
    True

    Args:
      state_dict: PyTorch tensors or arrays by name, or the path of a file to `load`.
      model: the network they belong to.
      image_size: (height, width) of its images in pixels, which together with the pooling
        determines the linear layer's number of inputs.

    Returns:
      {"params": ..., "batch_stats": ...} of the model's param_dtype, as `model.init` returns them; copies.

    Raises:
      InputError: keys are missing, unknown or of another shape, all of which the message lists; or the file
        does not exist or holds something other than tensors.
    """
    tensors = clean(state_dict if isinstance(state_dict, Mapping) else load(state_dict))
    paths = _matched(tensors, model, image_size)
    # jnp.array copies, where jnp.asarray would share the memory of a CPU tensor.
    arrays = {path: jnp.array(_from_torch(_array(tensors[name])), model.param_dtype) for name, path in paths.items()}
    variables: dict[str, Any] = unflatten_dict(arrays)
    return variables


def to_state_dict(
    variables: Mapping[str, Any], model: ResNet, layout: Layout = "kuangliu", image_size: tuple[int, int] = (32, 32)
) -> dict[str, np.ndarray]:
    """A PyTorch state dict of a network's variables.

    Args:
      variables: {"params": ..., "batch_stats": ...}.
      model: the network they belong to.
      layout: which names to use.
      image_size: as for `from_state_dict`.

    Returns:
      Arrays by name, for `load_state_dict({name: torch.from_numpy(array) ...})`. Every batch
      normalisation's `num_batches_tracked`, int64 [], is 0.

    Raises:
      InputError: no such layout, or variables of another network.
    """
    if layout not in _MODULES:
        raise InputError(f"layout {layout}: must be one of {', '.join(get_args(Layout))}")
    flat = flatten_dict(dict(variables))
    arrays = {torch_name(path, layout): _to_torch(np.asarray(value)) for path, value in flat.items()}
    _compare(arrays, expected(model, image_size, layout)[1])
    counted = [name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")]
    counts = {name + _BATCHES: np.zeros((), np.int64) for name in counted}
    return {name: np.array(array, order="C") for name, array in sorted((arrays | counts).items())}


def relayout(
    state_dict: Mapping[str, Any], model: ResNet, layout: Layout, image_size: tuple[int, int] = (32, 32)
) -> dict[str, np.ndarray]:
    """The same tensors, `num_batches_tracked` included, under another layout's names.

    Args:
      state_dict, model, image_size: as for `from_state_dict`.
      layout: which names to use.

    Returns:
      Arrays by name, with the tensors' bits and dtypes; bfloat16, which NumPy lacks, becomes float32.

    Raises:
      InputError: keys are missing, unknown or of another shape; the message lists all.
    """
    tensors = clean(state_dict)
    renamed = {name: torch_name(path, layout) for name, path in _matched(tensors, model, image_size).items()}
    modules = {name.rpartition(".")[0]: new.rpartition(".")[0] for name, new in renamed.items()}
    renamed |= {module + _BATCHES: new + _BATCHES for module, new in modules.items() if module + _BATCHES in tensors}
    return {new: np.array(_array(tensors[name]), order="C") for name, new in sorted(renamed.items())}


def expected(
    model: ResNet, image_size: tuple[int, int], layout: Layout
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """For each name in a network's state dict: the path of our variable, and the shape of PyTorch's tensor.

    `num_batches_tracked` is left out. `image_size` is (height, width) in pixels.
    """
    variables = flatten_dict(variable_shapes(model, image_size))
    paths = {torch_name(path, layout): path for path in variables}
    return paths, {name: _to_torch(np.broadcast_to(0, variables[path].shape)).shape for name, path in paths.items()}


def classes_of(state_dict: Mapping[str, Any]) -> int:
    """Number of classes of a state dict's linear layer.

    Raises:
      InputError: it has no linear layer.
    """
    tensors = clean(state_dict)
    for layer in ("linear", "fc"):
        if f"{layer}.bias" in tensors:
            return len(tensors[f"{layer}.bias"])
    raise InputError("the weights have neither linear.bias nor fc.bias: give the state dict of a whole network")


def layout_of(names: Mapping[str, Any]) -> Layout:
    """The layout of these names."""
    return "torchvision" if any(name.startswith("fc.") or ".downsample." in name for name in names) else "kuangliu"


def torch_name(path: tuple[str, ...], layout: Layout) -> str:
    """PyTorch's name for a variable: (params, layer1_0, shortcut_conv, kernel) -> layer1.0.shortcut.0.weight."""
    _, *modules, leaf = path
    names = [_MODULES[layout].get(name, re.sub(r"^(layer\d+)_(\d+)$", r"\1.\2", name)) for name in modules]
    return ".".join((*names, _LEAVES[leaf]))


def _matched(tensors: Mapping[str, Any], model: ResNet, image_size: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """The path of our variable for each tensor's name; InputError unless the tensors fit the network."""
    paths, shapes = expected(model, image_size, layout_of(tensors))
    _compare({name: tensor for name, tensor in tensors.items() if not name.endswith(_BATCHES)}, shapes)
    return paths


def _from_torch(array: np.ndarray) -> np.ndarray:
    """PyTorch's axes to Flax's: OIHW -> HWIO, OI -> IO; vectors stay."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _compare(tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError that lists every difference between the tensors and the expected shapes."""
    shapes = {name: tuple(np.shape(value)) for name, value in tensors.items()}
    faults = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in shapes]
    faults += [f"{name} {shape} is unknown" for name, shape in shapes.items() if name not in expected]
    faults += [
        f"{name} has shape {shapes[name]}, not {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if faults:
        raise InputError(f"the weights do not fit the network: {'; '.join(faults)}: choose the network they belong to")
