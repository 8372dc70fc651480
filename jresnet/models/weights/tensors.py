"""Tensors of any library: PyTorch's, NumPy's, JAX's, or the description `Stored` of one in a file."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jresnet.config import FLOAT32_LARGEST
from jresnet.errors import InputError, first_line, visible
from jresnet.models.weights.torch_pickle import Stored

__all__ = ["LEAVES", "array_of", "check_tensor", "check_values", "is_tensor", "kind_of", "shape_of"]

FLOATS = ("float32", "float16", "bfloat16", "float64")
LEAVES = {"weight", "bias", "running_mean", "running_var"}


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor of any library."""
    return hasattr(type(value), "shape")  # of its class: a nested tensor raises an error when it is asked


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape; () of a nested tensor, which has none."""
    return () if getattr(tensor, "is_nested", False) else tuple(tensor.shape)


def check_tensor(name: str, tensor: Any) -> None:
    """InputError unless the tensor holds plain numbers, some of them, of a type that weights have."""
    shape, leaf, name = shape_of(tensor), name.rpartition(".")[2], visible(name)[:100]
    kind = kind_of(tensor)
    counts = leaf == "num_batches_tracked" and re.fullmatch(r"u?int\d+", kind)
    if kind not in FLOATS and not counts:
        raise InputError(f"{name} holds no plain numbers of weights ({kind}): save it as float32")
    if leaf in LEAVES and 0 in (len(shape), math.prod(shape)):
        raise InputError(f"{name} of shape {shape} has nothing of a layer: save the state dict of the whole network")


def kind_of(tensor: Any) -> str:
    """The name of a plain tensor's dtype, such as float32; else a word for what it is."""
    if isinstance(tensor, Stored):
        return tensor.kind or tensor.dtype
    if hasattr(type(tensor), "detach"):  # PyTorch's
        traits = {
            "nested": tensor.is_nested, "sparse": str(tensor.layout) != "torch.strided",
            "quantised": tensor.is_quantized, "meta": tensor.is_meta,
        }  # fmt: skip
        return next((word for word, holds in traits.items() if holds), str(tensor.dtype).removeprefix("torch."))
    return str(getattr(tensor.dtype, "name", tensor.dtype))


def check_values(source: str, tensors: Mapping[str, Any], strict: bool) -> None:
    """Look for values that no network has: NaN, infinity, beyond float32's range, or a negative variance.

    Args:
      source: where the tensors are from, for messages.
      tensors: PyTorch tensors or arrays by name.
      strict: refuse such values; else a warning tells of them.

    Raises:
      InputError: some tensor has such values, and `strict`.
    """
    faults = []
    for name, tensor in tensors.items():
        values = array_of(tensor)
        with np.errstate(invalid="ignore"):
            bad = np.count_nonzero(~(np.abs(values) <= np.asarray(FLOAT32_LARGEST, np.result_type(values, np.float32))))
            below = np.count_nonzero(values < 0) if name.endswith("running_var") else 0
        rule = "values that are NaN, infinite or beyond float32's range"
        faults += [f"{name} has {rule} ({bad} of {values.size})"] if bad else []
        faults += [f"{name} has negative values, as no variance has ({below} of {values.size})"] if below else []
    if not faults:
        return
    more = f"; other such tensors: {len(faults) - 1}" if faults[1:] else ""
    if strict:
        raise InputError(f"{source}: {faults[0]}{more}: no network computes with these: save sound weights")
    logging.getLogger(__name__).warning("%s: %s%s: they are kept as they are", source, faults[0], more)


def array_of(tensor: Any) -> np.ndarray:
    """A tensor or array as a NumPy array; bfloat16, which NumPy lacks, as the exact float32 values.

    Raises:
      InputError: a sparse, quantised, 8-bit or "meta" tensor.
    """
    try:
        if hasattr(type(tensor), "detach"):
            tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
            tensor = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        array = np.asarray(tensor)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"a tensor holds no plain numbers ({first_line(error)}): save it as float32") from None
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    return array.astype(array.dtype.newbyteorder("="), copy=False)
