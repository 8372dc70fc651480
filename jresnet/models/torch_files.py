"""Files of weights in PyTorch's formats: .pth, .pt and .safetensors, read and written as tensors by name."""

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jresnet.errors import InputError, first_line
from jresnet.records.files import write_bytes


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state dict from a .safetensors, .pth or .pt file; only tensors are ever unpickled.

    In a training checkpoint, the state dict is looked up under `net`, `model` or `state_dict`.

    Raises:
      InputError: the file cannot be read or holds no state dict, or its library is not installed.
    """
    suffix = pathlib.Path(path).suffix
    if suffix not in _READERS:
        raise InputError(f"{path}: must end in one of {', '.join(_READERS)}: save the weights as one of them")
    if not pathlib.Path(path).is_file():
        raise InputError(f"{path}: there is no such file: give the path of a state dict")
    try:
        _check_compression(path)
        contents = _READERS[suffix](path)
    except ImportError as error:
        raise InputError(f"{path}: reading it needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # each library has its own errors, and torch's depend on the damage
        reason = first_line(error).partition(". ")[0][:200]
        raise InputError(f"{path}: cannot be read as tensors alone ({reason}): save the state dict again") from None
    for name in ("net", "model", "state_dict"):
        contents = contents.get(name, contents) if isinstance(contents, Mapping) else contents
    if not isinstance(contents, Mapping) or not all(hasattr(value, "shape") for value in contents.values()):
        raise InputError(f"{path}: holds no state dict: save model.state_dict()")
    _check_sizes(path, contents)
    return dict(contents)


def save(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """Write a state dict to a .safetensors, .pth or .pt file, atomically.

    Raises:
      InputError: another suffix, or a library that is not installed.
      CannotWrite: the path cannot be written.
    """
    suffix = pathlib.Path(path).suffix
    if suffix not in _WRITERS:
        raise InputError(f"{path}: must end in one of {', '.join(_WRITERS)}: choose another name")
    try:
        write_bytes(path, _WRITERS[suffix](state_dict))
    except ImportError as error:
        raise InputError(f"{path}: writing it needs {error.name}: pip install {error.name}") from None


def _check_compression(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for an archive whose members are larger than itself: PyTorch compresses none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > os.path.getsize(path):
                raise ValueError("a compressed archive")


def _check_sizes(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Raise InputError for a tensor with more elements than its file has bytes, as a view with strides of 0."""
    size = os.path.getsize(path)
    for name, tensor in tensors.items():
        if math.prod(tensor.shape) > size:
            shape = tuple(tensor.shape)
            raise InputError(f"{path}: {name} of shape {shape} is not in the file in full: save the state dict again")


def _read_torch(path: str | os.PathLike[str]) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: str | os.PathLike[str]) -> Any:
    import safetensors.flax

    # Without x64, JAX would truncate 64-bit tensors.
    with jax.enable_x64():
        return {name: np.array(array) for name, array in safetensors.flax.load_file(path).items()}


def _torch_bytes(state_dict: Mapping[str, np.ndarray]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, buffer)
    return buffer.getvalue()


def _safetensors_bytes(state_dict: Mapping[str, np.ndarray]) -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save(dict(state_dict))


_READERS = {".pth": _read_torch, ".pt": _read_torch, ".safetensors": _read_safetensors}
_WRITERS = {".pth": _torch_bytes, ".pt": _torch_bytes, ".safetensors": _safetensors_bytes}
