"""Files of weights: a state dict of tensors by name, read from any file that people keep one in, and written.

What a file is, its content says: PyTorch's archive or its older pickle, or .safetensors, whatever the file is called.
"""

import io
import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from jresnet.data.files import check_file, readable
from jresnet.errors import InputError, first_line, visible
from jresnet.models.weights import state_dicts, torch_readers
from jresnet.models.weights.torch_pickle import ITEM_SIZES, Code, Stored
from jresnet.records.files import local_path, write_bytes

__all__ = ["SUFFIXES", "load", "save"]

SHARED = 64
"""How often its file's size a state dict may take: tensors may share their elements."""


def load(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Any]:
    """Read the state dict of a network from a file.

    The file's content says what it is: one of `torch.save`, old ones included, or .safetensors. In a training
    checkpoint the state dict is looked for at any depth; names are made plain, see `state_dicts.clean`. Nothing that
    the file names is called, and no memory is taken for a tensor that it only claims to hold.

    Args:
      path: the file; `~` is the home directory.
      key: the dotted path of the state dict in the file, such as "model_ema" or "state.model", where it holds several.

    Returns:
      PyTorch's tensors, or NumPy's arrays from a .safetensors file, by name.

    Raises:
      InputError: the file cannot be read, or is damaged; it holds no state dict, several, or what could run code; a
        tensor has no plain numbers; or PyTorch is not installed.
    """
    path = str(local_path(path))
    check_file(path, "give the path of a state dict")
    with readable(path), open(path, "rb") as file:
        return _load(path, file, key)


def _load(path: str, file: IO[bytes], key: str | None) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    try:
        contents = torch_readers.contents(file, size)
        tensors = state_dicts.clean(state_dicts.choose(contents.tree, key), path)
        _check_sizes(tensors, size)
        built = contents.build(tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Code as error:
        reason = f"it names {visible(error.name)[:200]}, which could run code"
        remedy = "save model.state_dict() with the program that wrote it"
        raise InputError(f"{path}: cannot be read as tensors alone ({reason}): {remedy}") from None
    except ImportError as error:
        raise InputError(f"{path}: reading it needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # damage may end in any error of zipfile, of Python's own readers, or of PyTorch
        reason = visible(first_line(error))[:200]
        raise InputError(f"{path}: cannot be read as tensors alone ({reason}): save the state dict again") from None
    if contents.remark:
        logging.getLogger(__name__).warning("%s: %s", path, contents.remark)
    return built


def _check_sizes(tensors: Mapping[str, Stored], size: int) -> None:
    """InputError for tensors that would take more memory than their file of so many bytes can mean, as views do."""
    total = 0
    for name, tensor in tensors.items():
        count = math.prod(tensor.shape)
        total += count * ITEM_SIZES[tensor.dtype]
        if count > size or total > SHARED * size:
            what = f"{visible(name)[:100]} of shape {tensor.shape!s:.60} is not in the file in full"
            raise InputError(f"{what}: save the state dict again")


def save(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """Write a state dict atomically, to a file of `torch.save`, or with the suffix .safetensors to one of those.

    Raises:
      InputError: another suffix, or a library that is not installed.
      CannotWrite: the path cannot be written.
    """
    path = local_path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(f"{path}: must end in one of {', '.join(_WRITERS)}: choose another name")
    try:
        write_bytes(path, _WRITERS[suffix](state_dict))
    except ImportError as error:
        raise InputError(f"{path}: writing it needs {error.name}: pip install {error.name}") from None


def _torch_bytes(state_dict: Mapping[str, np.ndarray]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, buffer)
    return buffer.getvalue()


def _safetensors_bytes(state_dict: Mapping[str, np.ndarray]) -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save(dict(state_dict))


_WRITERS: dict[str, Callable[[Mapping[str, np.ndarray]], bytes]] = {
    ".pth": _torch_bytes, ".pt": _torch_bytes, ".safetensors": _safetensors_bytes, ".th": _torch_bytes,
    ".bin": _torch_bytes, ".ckpt": _torch_bytes, ".tar": _torch_bytes,
}  # fmt: skip
SUFFIXES = tuple(_WRITERS)
"""Of the files that `save` writes, in lower case."""
