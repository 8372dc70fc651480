"""The kinds of files that hold weights, each known by its content: what is in one, and its elements once asked for.

Nothing here runs code from a file, and no memory is taken for what a file claims beyond what it has.
"""

import dataclasses
import io
import math
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, cast

import jax.numpy as jnp
import numpy as np

from jresnet.models.weights.torch_pickle import ITEM_SIZES, Storage, Stored, Table, read
from jresnet.records.files import parse_json

__all__ = ["Contents", "contents"]

PICKLE = 2**26
"""Bytes of the longest pickle that is read; a network's has about 200 for each tensor."""
HEADER = 2**24
"""Bytes of the longest header of a .safetensors file that is read."""
CHUNK = 2**20

_MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's files before 1.6
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
# Beginnings of files that people take for weights, and what to say of them.
_OTHERS = (
    (rb"$", "an empty file"),
    (rb"version https://git-lfs", "a pointer of Git LFS in place of the file, which `git lfs pull` fetches"),
    (rb"\s*<(!doctype|html|\?xml)", "a page of the web in place of the file"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file, to be unpacked first"),
    (rb"\x93NUMPY", "an array of NumPy"),
    (rb".{257}ustar", "a tar archive, as PyTorch before 0.1.10 wrote or as several files are packed in"),
    (rb"\x80[\x02-\x05]|[(c\]}]", "a pickle, but none that torch.save wrote"),
)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      tree: the value that was saved, of `Table`s, lists and tuples, in which tensors are `Stored`.
      build: from `Stored` tensors of the tree by name to the tensors with their elements: PyTorch's, or NumPy's
        from .safetensors files. Tensors that share a storage share memory.
      remark: what a user should know of the file, or "".
    """

    tree: Any
    build: Callable[[Mapping[str, Stored]], dict[str, Any]]
    remark: str = ""


class _Bounded:
    """An open file of which no more is asked than it has, as memory is taken for what is asked: headers may lie."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._size = file, size
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        """Up to so many bytes, or all that follow."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if count < 0 else min(count, left))


def contents(file: IO[bytes], size: int) -> Contents:
    """Read what an open file of so many bytes holds; the file must stay open for `build`.

    Raises:
      ValueError and others: it is damaged, hostile, or of another kind.
    """
    file = cast(IO[bytes], _Bounded(file, size))
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK"):
        return _of_zip(file, size)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return _of_safetensors(file, size)
    if _MAGIC.to_bytes(10, "little") in start[:32]:
        return _of_legacy(file, size)
    for beginning, words in _OTHERS:
        if re.match(beginning, start, re.DOTALL | re.IGNORECASE):
            raise ValueError(words)
    raise ValueError("neither PyTorch's nor a .safetensors file")


# PyTorch's zip archives: a pickle, and a member for each storage.


def _of_zip(file: IO[bytes], size: int) -> Contents:
    archive = zipfile.ZipFile(file)
    members = {member.filename: member for member in archive.infolist()}
    found = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(found) != 1:
        raise ValueError("a zip archive without the one data.pkl that torch.save writes")
    root = found[0].removesuffix("data.pkl")
    if root + "constants.pkl" in members or any(name.startswith(root + "code/") for name in members):
        raise ValueError("TorchScript, which is a program and not its weights alone")
    _check_members(archive, size)
    unsummed = all(member.CRC == 0 for member in members.values() if member.file_size)
    for member in members.values():
        if unsummed:
            del member.CRC  # or zipfile would compare it
        elif member.file_size and member.filename != root + "data.pkl":
            for _ in _chunks(archive, member):  # zipfile compares the CRC at the end
                pass
    if members[root + "data.pkl"].file_size > PICKLE:
        raise ValueError(f"a pickle of more than {PICKLE} bytes")
    tree, storages = read(io.BytesIO(archive.read(root + "data.pkl")))
    for storage in storages:
        length, claimed = members[f"{root}data/{storage.key}"].file_size, storage.whole * ITEM_SIZES[storage.dtype]
        if length != claimed:
            raise ValueError(f"storage {storage.key} of {length} bytes claims {claimed}")
    order = archive.read(root + "byteorder").decode() if root + "byteorder" in members else "little"
    if order not in ("little", "big"):
        raise ValueError(f"an unknown order of bytes, {order!r}")

    def elements(storage: Storage) -> bytearray:
        return bytearray(archive.read(f"{root}data/{storage.key}"))

    remark = "the file was written without checksums (torch.serialization.set_crc32_options), so damage cannot be seen"
    return Contents(tree, lambda tensors: _torch_tensors(tensors, elements, order), remark if unsummed else "")


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """ValueError unless the members have distinct names, are not compressed, and fit in the file side by side."""
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ValueError("an archive with two members of one name")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a compressed archive: PyTorch compresses none")
    if sum(member.file_size for member in members) > size:
        raise ValueError("an archive whose members are larger than itself")


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterable[bytes]:
    with archive.open(member) as file:
        while chunk := file.read(CHUNK):
            yield chunk


# PyTorch's files before 1.6: five pickles, and then the storages, each with its length before it.


def _of_legacy(file: IO[bytes], size: int) -> Contents:
    stream = io.BytesIO(file.read(PICKLE))
    magic, version, system = (read(stream)[0] for _ in range(3))
    if magic != _MAGIC or version != 1001 or not isinstance(system, Table) or system.get("little_endian") is not True:
        raise ValueError("an unknown version of PyTorch's files before 1.6")
    tree, storages = read(stream)
    keys = read(stream)[0]
    wholes: dict[str, Storage] = {}
    for storage in storages:
        first = wholes.setdefault(storage.key, storage)
        if (first.whole, first.dtype) != (storage.whole, storage.dtype):
            raise ValueError(f"storage {storage.key} has two lengths")
    if not isinstance(keys, list) or len(keys) != len(wholes) or set(keys) != wholes.keys():
        raise ValueError("its list of storages is not that of its tensors")
    places, place = {}, stream.tell()
    for key in keys:
        file.seek(place)
        count, whole = int.from_bytes(file.read(8), "little"), wholes[key].whole
        if count != whole:
            raise ValueError(f"storage {key} of {count} elements claims {whole}")
        places[key] = place + 8
        place += 8 + count * ITEM_SIZES[wholes[key].dtype]
    if place != size:
        raise ValueError(f"its storages end at byte {place}, the file at {size}")

    def elements(storage: Storage) -> bytearray:
        file.seek(places[storage.key])
        return bytearray(file.read(storage.whole * ITEM_SIZES[storage.dtype]))

    return Contents(tree, lambda tensors: _torch_tensors(tensors, elements, "little"))


def _torch_tensors(
    tensors: Mapping[str, Stored], elements: Callable[[Storage], bytearray], order: str
) -> dict[str, Any]:
    """PyTorch's tensors, from the bytes of their storages in an order of "little" or "big"."""
    import torch

    buffers: dict[str, bytearray] = {}
    built = {}
    for name, tensor in tensors.items():
        storage, width = tensor.storage, ITEM_SIZES[tensor.dtype]
        assert storage is not None, "only plain tensors are built"
        if storage.key not in buffers:
            data = elements(storage)
            if len(data) != storage.whole * ITEM_SIZES[storage.dtype]:
                raise ValueError(f"storage {storage.key} is cut off")
            swapped = np.frombuffer(data, np.uint8).reshape(-1, width)[:, ::-1] if order != sys.byteorder else None
            buffers[storage.key] = data if swapped is None else bytearray(swapped.tobytes())
        data, dtype = buffers[storage.key], getattr(torch, tensor.dtype)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        view = flat.as_strided(tensor.shape, tensor.strides, storage.start + tensor.offset)
        built[name] = view.neg() if tensor.negative else view
    return built


# .safetensors: the length of a header, the header in JSON, and the tensors' bytes one after the other.


def _of_safetensors(file: IO[bytes], size: int) -> Contents:
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    if length > HEADER:
        raise ValueError(f"a header of more than {HEADER} bytes")
    header = parse_json(file.read(length))
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise ValueError("__metadata__ that is no text by name")
    begins = {name: _checked_entry(name, entry) for name, entry in header.items()}
    place = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        if begin != place:
            raise ValueError(f"{name} begins at byte {begin}, not where the tensor before it ends, at {place}")
        place = end
    if place != size - 8 - length:
        raise ValueError(f"its tensors have {place} bytes, its header says, but {size - 8 - length} follow")
    tree = Table(begins)

    def build(tensors: Mapping[str, Stored]) -> dict[str, Any]:
        return {name: _array(file, 8 + length, tensor) for name, tensor in tensors.items()}

    return Contents(tree, build)


def _checked_entry(name: str, entry: Any) -> Stored:
    """The tensor of an entry of the header; ValueError unless it says what it must, and its bytes suit its shape."""
    name.encode()  # halves of a character are no name
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} has no dtype, shape and data_offsets")
    dtype, shape, offsets = _SAFETENSORS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if dtype is None:
        raise ValueError(f"{name} is of an unknown dtype, {entry['dtype']!r:.40}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or len(numbers) > 64 or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{name} has a shape or data_offsets of no whole numbers")
    if len(offsets) != 2 or max(shape, default=0) > sys.maxsize:
        raise ValueError(f"{name} has an impossible shape or data_offsets")
    count, (begin, end) = math.prod(shape), offsets
    if count * ITEM_SIZES[dtype] != end - begin:
        raise ValueError(f"{name} of shape {tuple(shape)} and {entry['dtype']} has {end - begin} bytes")
    return Stored(tuple(shape), dtype, Storage(name, dtype, count, 0, count), begin)


def _array(file: IO[bytes], start: int, tensor: Stored) -> np.ndarray:
    """The array of a tensor whose `offset` is that of its bytes after `start`; it owns its memory."""
    assert tensor.storage is not None, "every tensor of such a file has elements"
    dtype = np.dtype(tensor.dtype if tensor.dtype != "bfloat16" else jnp.bfloat16).newbyteorder("<")
    file.seek(start + tensor.offset)
    data = bytearray(file.read(tensor.storage.whole * dtype.itemsize))
    return np.frombuffer(data, dtype).reshape(tensor.shape).astype(dtype.newbyteorder("="), copy=False)
