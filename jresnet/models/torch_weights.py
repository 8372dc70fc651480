"""Weights from PyTorch and back: state dicts in the layouts of kuangliu/pytorch-cifar and torchvision.

A state dict maps names to tensors: convolutions [outputs, inputs, rows, columns], linear layers
[outputs, inputs]. Flax's kernels are [rows, columns, inputs, outputs] and [inputs, outputs]. The layouts
differ in names alone, see `torch_names`; a third, of weiaicunzai/pytorch-cifar100, is read.

Every array and tensor returned owns its memory and is writable or, a JAX array, immutable.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jresnet.errors import InputError
from jresnet.models.resnet import ResNet
from jresnet.models.weights.recognise import check_fit
from jresnet.models.weights.state_dicts import clean
from jresnet.models.weights.tensors import array_of as _array
from jresnet.models.weights.tensors import check_values
from jresnet.models.weights.torch_files import load, save
from jresnet.models.weights.torch_names import Layout, Shapes, expected, from_torch, layout_of, to_torch, torch_name

__all__ = [
    "Layout", "classes_of", "expected", "from_state_dict", "layout_of", "load", "relayout", "save", "shapes_of",
    "to_state_dict", "torch_name",
]  # fmt: skip

_log = logging.getLogger(__name__)

# Our path of the first convolution.
_STEM = ("params", "conv1", "kernel")
# The counter, int64 [], of every batch normalisation in PyTorch.
_BATCHES = ".num_batches_tracked"


def from_state_dict(
    state_dict: Mapping[str, Any] | str | os.PathLike[str], model: ResNet, image_size: tuple[int, int] = (32, 32)
) -> dict[str, Any]:
    """Variables of `model` from a PyTorch state dict in any of the layouts.

    Prefixes of DataParallel and torch.compile are dropped. `num_batches_tracked` is ignored: PyTorch uses it only
    for a batch normalisation without momentum. A first convolution of one channel becomes one of three with a third of
    its weights each, the same function of an image whose channels are equal; a warning says so. Another warning names
    values that no network has: NaN, infinity, or a negative variance.

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
      InputError: keys are missing, unknown or of another shape, which the message counts, naming the first of each and
        the network that the tensors do fit; or the file does not exist or holds something other than tensors; or a
        number is beyond the range of the model's param_dtype.
    """
    source = "the state dict" if isinstance(state_dict, Mapping) else os.fspath(state_dict)
    tensors = clean(state_dict if isinstance(state_dict, Mapping) else load(state_dict))
    paths = check_fit(shapes_of(tensors), model, image_size)
    _spread_over_three_channels(tensors)
    for name in paths:
        _check_range(source, name, _array(tensors[name]), model.param_dtype)
    check_values(source, {name: tensors[name] for name in paths}, strict=False)
    # jnp.array copies, where jnp.asarray would share the memory of a CPU tensor.
    arrays = {path: jnp.array(from_torch(_array(tensors[name])), model.param_dtype) for name, path in paths.items()}
    variables: dict[str, Any] = unflatten_dict(arrays)
    return variables


def _check_range(source: str, name: str, array: np.ndarray, dtype: Any) -> None:
    """InputError if a finite number of the tensor `name` would become infinite in this dtype."""
    dtype = jnp.dtype(dtype)
    with np.errstate(over="ignore"):
        lost = np.count_nonzero(np.isfinite(array) & ~np.isfinite(array.astype(dtype)))
    if lost:
        rule = (
            f"{name} has values beyond the range of {dtype.name} ({lost} of {array.size}), and would have infinite ones"
        )
        raise InputError(f"{source}: {rule}: save sound weights, or give a model of a wider param_dtype")


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
    if layout not in get_args(Layout):
        raise InputError(f"layout {layout}: must be one of {', '.join(get_args(Layout))}")
    flat = flatten_dict(dict(variables))
    arrays = {torch_name(path, layout): to_torch(np.asarray(value)) for path, value in flat.items()}
    check_fit({name: array.shape for name, array in arrays.items()}, model, image_size)
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
      Arrays by name, with the tensors' bits and dtypes; bfloat16, which NumPy lacks, becomes float32. A first
      convolution of one channel keeps it.

    Raises:
      InputError: as of `from_state_dict`.
    """
    tensors = clean(state_dict)
    paths = check_fit(shapes_of(tensors), model, image_size)
    renamed = {name: torch_name(path, layout) for name, path in paths.items()}
    modules = {name.rpartition(".")[0]: new.rpartition(".")[0] for name, new in renamed.items()}
    renamed |= {module + _BATCHES: new + _BATCHES for module, new in modules.items() if module + _BATCHES in tensors}
    return {new: np.array(_array(tensors[name]), order="C") for name, new in sorted(renamed.items())}


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


def shapes_of(state_dict: Mapping[str, Any]) -> Shapes:
    """The shapes of a state dict's tensors by plain name, for images of three channels; without `num_batches_tracked`.

    Raises:
      InputError: the first convolution takes neither three channels nor one.
    """
    tensors = {name: value for name, value in clean(state_dict).items() if not name.endswith(_BATCHES)}
    shapes = {name: tuple(map(int, np.shape(value))) for name, value in tensors.items()}
    stem = torch_name(_STEM, layout_of(shapes))
    match shapes.get(stem):
        case outputs, channels, *sides if len(sides) == 2:
            if channels not in (1, 3):
                rule = f"takes images of {channels} channels, and networks here take 3, or 1 repeated"
                raise InputError(f"{stem}: {rule}: give the weights of such a network")
            shapes[stem] = (outputs, 3, *sides)
    return shapes


def _spread_over_three_channels(tensors: dict[str, Any]) -> None:
    """Replace a first convolution of one channel by one of three."""
    stem = torch_name(_STEM, layout_of(tensors))
    if np.shape(tensors[stem])[1] == 3:
        return
    _log.warning(
        f"{stem}: takes one channel; a third of it for each of three is the same function of gray images, normalised "
        "alike in all three"
    )
    third = _array(tensors[stem]) / np.float32(3)  # so that float16 becomes float32
    tensors[stem] = np.repeat(third, 3, axis=1)
