"""Weights from PyTorch and back: state dicts in the layouts of kuangliu/pytorch-cifar and of torchvision.

A state dict maps names to tensors: convolutions [outputs, inputs, rows, columns], linear layers
[outputs, inputs]. Here kernels are [rows, columns, inputs, outputs] and [inputs, outputs]. The layouts
differ in two names: `shortcut` and `linear` in kuangliu's, `downsample` and `fc` in torchvision's.
"""

import io
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jresnet.errors import InputError
from jresnet.models import ResNet, variable_shapes
from jresnet.records.files import write_bytes

Layout = Literal["kuangliu", "torchvision"]

# Our names of modules, and each layout's where they differ.
_MODULES = {
    "kuangliu": {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1", "linear": "linear"},
    "torchvision": {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1", "linear": "fc"},
}
# Flax's names of a layer's arrays, and PyTorch's.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# What DataParallel and torch.compile put before every name.
_PREFIXES = r"^(module\.|_orig_mod\.)+"
# The counter, int64 [], that every batch normalisation of PyTorch carries along.
_BATCHES = ".num_batches_tracked"


def from_state_dict(
    state_dict: Mapping[str, Any] | str | os.PathLike, model: ResNet, image_size: tuple[int, int] = (32, 32)
) -> dict[str, Any]:
    """Variables of `model` from a PyTorch state dict in either layout.

    Prefixes of DataParallel and torch.compile are dropped. `num_batches_tracked` is passed over: PyTorch
    reads it only where a batch normalisation has no momentum, which these networks never do without.

    Args:
      state_dict: PyTorch tensors or arrays by name, or the path of a file that `load` reads.
      model: the network they belong to.
      image_size: (height, width) of its images in pixels; together with the pooling it decides how many
        inputs the linear layer has.

    Returns:
      {"params": ..., "batch_stats": ...} of the model's param_dtype, as `model.init` returns them.

    Raises:
      InputError: keys are missing, unknown or of another shape; the message lists every one. Or there is
        no such file, or none that holds tensors alone.
    """
    tensors = _plain(state_dict if isinstance(state_dict, Mapping) else load(state_dict))
    paths = _matched(tensors, model, image_size)
    arrays = {path: _from_torch(_array(tensors[name])) for name, path in paths.items()}
    return flax.traverse_util.unflatten_dict(
        {path: jnp.asarray(array, model.param_dtype) for path, array in arrays.items()}
    )


def to_state_dict(
    variables: Mapping[str, Any], model: ResNet, layout: Layout = "kuangliu", image_size: tuple[int, int] = (32, 32)
) -> dict[str, np.ndarray]:
    """A PyTorch state dict of a network's variables.

    Args:
      variables: {"params": ..., "batch_stats": ...}.
      model: the network they belong to.
      layout: whose names the state dict has.
      image_size: as of `from_state_dict`.

    Returns:
      Arrays by name, for `load_state_dict({name: torch.from_numpy(array) ...})`. Every batch
      normalisation's `num_batches_tracked`, int64 [], is 0.

    Raises:
      InputError: there is no such layout, or the variables are not of this network.
    """
    if layout not in _MODULES:
        raise InputError(f"layout {layout}: must be one of {', '.join(get_args(Layout))}")
    arrays = {torch_name(path, layout): _to_torch(np.asarray(value)) for path, value in _flat(variables).items()}
    _compare(arrays, expected(model, image_size, layout)[1])
    counted = [name.removesuffix(".running_var") for name in arrays if name.endswith(".running_var")]
    counts = {name + _BATCHES: np.zeros((), np.int64) for name in counted}
    # PyTorch takes over an array's memory, so it must own its own and be writable.
    return {name: np.array(array, order="C") for name, array in sorted((arrays | counts).items())}


def relayout(
    state_dict: Mapping[str, Any], model: ResNet, layout: Layout, image_size: tuple[int, int] = (32, 32)
) -> dict[str, np.ndarray]:
    """The same tensors under another layout's names, every bit and `num_batches_tracked` included.

    Args:
      state_dict: as of `from_state_dict`.
      model: the network it belongs to.
      layout: whose names the result has.
      image_size: as of `from_state_dict`.

    Returns:
      Arrays by name, of the tensors' own dtypes; bfloat16, which NumPy lacks, becomes float32.

    Raises:
      InputError: keys are missing, unknown or of another shape; the message lists every one.
    """
    tensors = _plain(state_dict)
    renamed = {name: torch_name(path, layout) for name, path in _matched(tensors, model, image_size).items()}
    modules = {name.rpartition(".")[0]: new.rpartition(".")[0] for name, new in renamed.items()}
    renamed |= {module + _BATCHES: new + _BATCHES for module, new in modules.items() if module + _BATCHES in tensors}
    return {new: np.array(_array(tensors[name]), order="C") for name, new in sorted(renamed.items())}


def load(path: str | os.PathLike) -> dict[str, Any]:
    """The state dict in a file: .safetensors, or .pth and .pt, of which only tensors are ever unpickled.

    A state dict inside a training checkpoint, under `net`, `model` or `state_dict`, is found there.

    Raises:
      InputError: the file cannot be read, holds no state dict, or its library is not installed.
    """
    suffix = pathlib.Path(path).suffix
    if suffix not in _READERS:
        raise InputError(f"{path}: must end in one of {', '.join(_READERS)}: save the weights as one of them")
    if not pathlib.Path(path).is_file():
        raise InputError(f"{path}: there is no such file: give the path of a state dict")
    try:
        found = _READERS[suffix](path)
    except ImportError as error:
        raise InputError(f"{path}: reading it needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # each library has its own, and torch's depends on the damage
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).partition(". ")[0][:200]
        raise InputError(f"{path}: cannot be read as tensors alone ({reason}): save the state dict again") from None
    for name in ("net", "model", "state_dict"):
        found = found.get(name, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(hasattr(value, "shape") for value in found.values()):
        raise InputError(f"{path}: holds no state dict: save model.state_dict()")
    return dict(found)


def save(path: str | os.PathLike, state_dict: Mapping[str, np.ndarray]) -> None:
    """Write a state dict to a .safetensors, .pth or .pt file, whole or not at all.

    Raises:
      InputError: another suffix, a library that is not installed, or a place that cannot be written.
    """
    suffix = pathlib.Path(path).suffix
    if suffix not in _WRITERS:
        raise InputError(f"{path}: must end in one of {', '.join(_WRITERS)}: choose another name")
    try:
        write_bytes(path, _WRITERS[suffix](state_dict))
    except ImportError as error:
        raise InputError(f"{path}: writing it needs {error.name}: pip install {error.name}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}): choose another place") from None


def _read_torch(path):
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path):
    import safetensors.flax

    # Otherwise JAX would halve the 64-bit tensors.
    with jax.enable_x64():
        return {name: np.asarray(array) for name, array in safetensors.flax.load_file(path).items()}


def _torch_bytes(state_dict):
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, buffer)
    return buffer.getvalue()


def _safetensors_bytes(state_dict):
    import safetensors.numpy

    return safetensors.numpy.save(dict(state_dict))


_READERS = {".pth": _read_torch, ".pt": _read_torch, ".safetensors": _read_safetensors}
_WRITERS = {".pth": _torch_bytes, ".pt": _torch_bytes, ".safetensors": _safetensors_bytes}


def expected(
    model: ResNet, image_size: tuple[int, int], layout: Layout
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """For every tensor's name in a network's state dict: the variable's path here, and the tensor's shape there.

    `num_batches_tracked` is left out. `image_size` is (height, width) in pixels.
    """
    variables = _flat(variable_shapes(model, image_size))
    paths = {torch_name(path, layout): path for path in variables}
    return paths, {name: _torch_shape(variables[path].shape) for name, path in paths.items()}


def classes_of(state_dict: Mapping[str, Any]) -> int:
    """How many classes the linear layer of a state dict tells apart.

    Raises:
      InputError: it has no linear layer.
    """
    tensors = _plain(state_dict)
    for layer in ("linear", "fc"):
        if f"{layer}.bias" in tensors:
            return len(tensors[f"{layer}.bias"])
    raise InputError("the weights have neither linear.bias nor fc.bias: give the state dict of a whole network")


def layout_of(names: Mapping[str, Any]) -> Layout:
    """The layout these names are in."""
    torchvision = any(name.startswith("fc.") or ".downsample." in name for name in names)
    return "torchvision" if torchvision else "kuangliu"


def torch_name(path: tuple[str, ...], layout: Layout) -> str:
    """PyTorch's name of a variable: (params, layer1_0, shortcut_conv, kernel) -> layer1.0.shortcut.0.weight."""
    _, *modules, leaf = path
    names = [_MODULES[layout].get(name, re.sub(r"^(layer\d+)_(\d+)$", r"\1.\2", name)) for name in modules]
    return ".".join((*names, _LEAVES[leaf]))


def _plain(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by their names without prefixes."""
    return {re.sub(_PREFIXES, "", name): value for name, value in state_dict.items()}


def _matched(tensors: Mapping[str, Any], model: ResNet, image_size: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """The variable's path here for every tensor's name; InputError unless the tensors are the network's."""
    counted = {name: value for name, value in tensors.items() if not name.endswith(_BATCHES)}
    paths, shapes = expected(model, image_size, layout_of(tensors))
    _compare(counted, shapes)
    return paths


def _flat(variables: Any) -> dict[tuple[str, ...], Any]:
    return flax.traverse_util.flatten_dict(dict(variables))


def _array(tensor: Any) -> np.ndarray:
    """A tensor or array on the host; PyTorch makes no NumPy array of bfloat16, whose values float32 holds exactly."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    array = np.asarray(tensor)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _from_torch(array: np.ndarray) -> np.ndarray:
    """PyTorch's axes to ours: OIHW -> HWIO, OI -> IO; vectors stay."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch(np.broadcast_to(0, shape)).shape


def _compare(tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError with everything that sets the tensors apart from those expected."""
    found = {name: tuple(np.shape(value)) for name, value in tensors.items()}
    faults = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in found]
    faults += [f"{name} {shape} is unknown" for name, shape in found.items() if name not in expected]
    faults += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if faults:
        raise InputError(f"the weights are not of this network: {'; '.join(faults)}: choose the network they belong to")
