"""Pickles of PyTorch's files, read without running anything: the tensors that they describe, and what holds them.

`jresnet.data.pickles` follows a pickle, and here is what its names stand for: the few functions that rebuild a tensor
give its description, a `Stored`; names of values (numbers of NumPy, paths, options) give an `Inert`; any other name
ends the reading. So a tensor's shape and strides are judged before memory is taken for it.
"""

import dataclasses
import math
import re
from typing import IO, Any

from jresnet.data.pickles import OPERATIONS, Global, Inert, Machine

__all__ = ["ITEM_SIZES", "Code", "Storage", "Stored", "Table", "read"]

NAME = 200
"""Characters of the longest key that is kept."""
DIMENSIONS, LARGEST = 64, 2**62
"""PyTorch's own limit of a tensor's dimensions, and one of its sizes and strides."""

ITEM_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex128": 16, "complex64": 8, "complex32": 4, "quint8": 1,
    "qint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1,
}  # fmt: skip
"""Bytes of one element of each of PyTorch's dtypes."""

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexDouble": "complex128",
    "ComplexFloat": "complex64", "QUInt8": "quint8", "QInt8": "qint8", "QInt32": "qint32", "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4", "Untyped": "uint8",
}  # fmt: skip
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
# What stands for a value of one's own choosing: numbers, options, paths, dates.
_INERT = re.compile(
    r"""builtins\.(set|frozenset|list|tuple|complex|bytes|bytearray|int|float|bool|str|slice|range|object
        |xrange|unicode|long)
    |_codecs\.encode | collections\.deque | types\.SimpleNamespace | argparse\.Namespace
    |pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path | datetime\.(datetime|date|time|timedelta|timezone)
    |numpy\.(dtype|ndarray|dtypes\.\w+DType)
    |numpy\.core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)
    |torch\.(device|Tensor|memory_format|per_(tensor|channel)_(affine|symmetric)|per_channel_affine_float_qparams)
    |torch\.nn\.parameter\.(Parameter|Buffer) | torch\.serialization\._get_layout
    |(pytorch_)?lightning(\.pytorch|\.fabric)?\.utilities\.(parsing|data)\.AttributeDict""",
    re.VERBOSE,
)
_TABLES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"}
# Functions that rebuild what is no plain tensor, and the word for it.
_OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "sparse", "_rebuild_sparse_csr_tensor": "sparse", "_rebuild_qtensor": "quantised",
    "_rebuild_meta_tensor_no_storage": "meta", "_rebuild_nested_tensor": "nested",
    "_rebuild_wrapper_subclass": "wrapped", "_rebuild_device_tensor_from_numpy": "another device's",
    "_rebuild_device_tensor_from_cpu_tensor": "another device's",
}  # fmt: skip


class Code(ValueError):
    """A pickle names what could run code; `name` is its qualified name."""

    def __init__(self, name: str):
        super().__init__(f"it names {name}, which could run code")
        self.name = name


class Table(dict[str, Any]):
    """A dictionary, of which the entries under names are kept, and one of the other keys of tensors."""

    unnamed: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """Where a tensor's elements are: `size` of them from `start`, of the `whole` that the file's storage `key` has."""

    key: str
    dtype: str
    whole: int
    start: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that a file describes: its shape, dtype by PyTorch's name, and elements, whose sign may be turned.

    `offset` and `strides` count elements. `kind` is empty for a plain tensor, else a word for what it is; then there is
    no storage.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: Storage | None = None
    offset: int = 0
    strides: tuple[int, ...] = ()
    negative: bool = False
    kind: str = ""


def read(stream: IO[bytes]) -> tuple[Any, list[Storage]]:
    """The value of the pickle at the stream's position, and the storages that it mentions; the stream ends behind it.

    Dictionaries are `Table`s, lists and tuples Python's own, tensors `Stored`; sets and all other objects are `Inert`.

    Raises:
      Code: it names what could run code.
      ValueError: it is damaged, too long, or no pickle.
    """
    machine = _Tensors(room=OPERATIONS)
    return machine.read(stream), machine.storages


class _Tensors(Machine):
    """Follows a pickle of tensors. Entries of dictionaries are copied where a call has them, as Python 2 wrote them."""

    table = Table

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.storages: list[Storage] = []

    def check_name(self, name: str) -> None:
        """Code unless the name stands for a tensor, a container or a value."""
        module, _, leaf = name.rpartition(".")
        match = _STORAGE.fullmatch(name)
        tensor = module in ("torch._utils", "torch._tensor") and re.fullmatch(r"_rebuild_\w+", leaf)
        dtype = module == "torch" and leaf in ITEM_SIZES
        storage = match is not None and match[1] in _STORAGES
        if not any((tensor, dtype, storage, name in _TABLES, name == "torch.Size", _INERT.fullmatch(name))):
            raise Code(name)

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        leaf = name.rpartition(".")[2]
        if name in _TABLES:
            table, pairs = Table(), arguments[0] if arguments and isinstance(arguments[0], list) else []
            self.spend(len(pairs))
            for key, value in pairs:
                self.put_item(table, key, value)
            return table
        if name == "torch.Size":
            return _shape(arguments[0])
        if leaf in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return arguments[0]
        if leaf == "_rebuild_from_type_v2":  # of a tensor with attributes: function, class, arguments, attributes
            return self.called(arguments[0].name, arguments[2])
        if leaf in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            storage, offset, shape, strides, *rest = arguments[:7]
            return _stored(storage, offset, shape, strides, None, rest[2] if len(rest) > 2 else None)
        if leaf == "_rebuild_tensor_v3":
            storage, offset, shape, strides, _, _, dtype, *rest = arguments[:8]
            return _stored(
                storage, offset, shape, strides, dtype.name.removeprefix("torch."), rest[0] if rest else None
            )
        if leaf.startswith("_rebuild_"):
            return Stored((), "", kind=_OTHER_TENSORS.get(leaf, leaf))
        return Inert()

    def put_item(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if isinstance(key, str) and len(key) <= NAME:
            table[key] = value
        elif isinstance(value, Stored) and isinstance(table, Table):
            short = key[:80] if isinstance(key, str | bytes) else key
            table.unnamed = f"{short!r:.80}" if isinstance(key, int | float | bytes | str) else type(key).__name__

    def persistent(self, identity: Any) -> Storage:
        self.storages.append(_described(identity))
        return self.storages[-1]


def _shape(sizes: Any) -> tuple[int, ...]:
    """Sizes or strides as a tuple."""
    if len(sizes) > DIMENSIONS or not all(map(_natural, sizes)):
        raise ValueError("a tensor of impossible shape")
    return tuple(sizes)


def _described(identity: Any) -> Storage:
    """The storage of a persistent ID: ("storage", class, key, device, elements) and, in old files, a part of it."""
    word, kind, key, _, whole, *view = identity[:6]
    if word != "storage" or not isinstance(kind, Global) or not isinstance(key, str) or not _natural(whole):
        raise ValueError("no storage")
    match = _STORAGE.fullmatch(kind.name)
    start, size = view[0][1:] if view and view[0] is not None else (0, whole)
    if match is None or not _natural(start) or not _natural(size) or start + size > whole:
        raise ValueError("no storage")
    return Storage(key, _STORAGES[match[1]], whole, start, size)


def _stored(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None, metadata: Any) -> Stored:
    """A plain tensor, after the checks that all of its elements lie in its storage."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    shape, strides = _shape(shape), _shape(strides)
    if len(shape) != len(strides) or not _natural(offset):
        raise ValueError("a tensor of impossible shape")
    # A storage without a type counts bytes.
    unit = ITEM_SIZES[dtype] // ITEM_SIZES[storage.dtype] if dtype else 1
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last + 1) * unit > storage.size:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
    negative = isinstance(metadata, dict) and bool(metadata.get("neg"))
    return Stored(shape, dtype or storage.dtype, storage, offset, strides, negative)


def _natural(number: Any) -> bool:
    return type(number) is int and 0 <= number < LARGEST
