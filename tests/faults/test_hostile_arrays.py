"""Generated .npz files, directories of .npy files and CIFAR archives, damaged, absurd or crafted.

Each is read, or refused in one line: never a traceback, a hang, or memory without bound.
"""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from jresnet.data.arrays import cifar
from jresnet.data.datasets import load_dataset
from tests.support.damage import put, refused, repeat, spoilt
from tests.support.datasets import arrays

SHAPES = (
    "(9, 6, 5, 3)", "(9,)", "(2**70,)", "(True, 6, 5, 3)", "(9.0, 6, 5, 3)", "(-1,)", "(-9, -6, 5, 3)", "()", "9",
    "None",
    "(9, 6, 5)", "(9, 0)", "(0, 99999999999)", "(" + "1, " * 64 + ")", "(" + "1, " * 3000 + ")", f"({2**70},)",
    "(9L, 6L)",
    f"({2**63}, 0)", f"({2**31}, {2**31}, 1, 1)", "[9, 6, 5, 3]", "('9',)", "(9, 6, 5, 3", "{}", "(1e400,)", "(9j,)",
)  # fmt: skip
DTYPES = (
    "'|u1'", "'<i8'", "'>f4'", "'<f2'", "'<f16'", "'|b1'", "'<c8'", "'<U3'", "'|S3'", "'<M8[ns]'", "'|O'", "'O'",
    "'|V3'",
    "'|V0'", "'<U0'", "'|S2147483647'", "'<U999999999'", "'(9,)u1'", "'(99999,99999)f8'", "'u1,u1'", "[('a', '|u1')]",
    "[('a', '|O')]", "[('a', '<f8', (99999, 99999))]", "[]", "None", "1", "''", "'" + "u1," * 2000 + "'", "'<z9'",
    "'|u3'",
    "('<f8', {})", "'f8[:'", "'datetime64[9999999999999999999s]'", "'\\x00'", "b'|u1'", "'|a3'", "'\ud800'",
    "[('a', " * 50 + "'u1'" + ")]" * 50,
)  # fmt: skip
HEADERS = (
    "(" * 9000, "[" * 9000, "{" * 4000, "-" * 9000 + "1", "~" * 9000 + "1", "2**" * 3000 + "2", "9**9**9**9**9",
    "9" * 9000,
    "1+" * 4000 + "1j", "'" * 9001, '"""', "\\\n" * 4000, "#" * 9000, "\0" * 99, "lambda: 0",
    "__import__('os')._exit(1)",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9,), 'descr': '|O'}", "{'descr': '|u1'}", "[]", "1", "",
    "{1: 2}",
    "{'descr': '|u1', 'fortran_order': 2, 'shape': (9,)}", "\t" * 20 + "1", "f'{1}'", "{**{}}", "{'a': 1, 'b': " * 500,
)  # fmt: skip
VALUES = (0, 1, 255, 256, -1, 127.5, 0.5, np.nan, np.inf, -np.inf, 1e300, 2**62, "a", "1", "")
KEYS = ("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels", "classes")
NAMES = (
    "x_train", "X_train", "y_train", "images", "labels", "x", "y", "train/images", "../train_images", "arr_0", "", ".",
    "é",
    "trainX", "train_images.npy", "TRAIN_IMAGES", "a\nb", "\x1b[31m", "x" * 5000, "train_train", "images_labels",
    "names",
)  # fmt: skip


def examples(few, many):
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def crafted(rng):
    """The bytes of an .npy file whose header is anything."""
    order = rng.choice(["False", "True", "None", "0"])
    whole = f"{{'descr': {rng.choice(DTYPES)}, 'fortran_order': {order}, 'shape': {rng.choice(SHAPES)}, }}"
    text = (rng.choice(HEADERS) if rng.random() < 0.3 else whole).encode("utf-8", "surrogatepass")
    version = rng.choice([(1, 0), (1, 0), (2, 0), (3, 0), (4, 0), (0, 0)])
    length = rng.choice([len(text)] * 4 + [0, 1, 65535])
    size = (
        struct.pack("<H", min(length, 65535))
        if version == (1, 0)
        else struct.pack("<I", rng.choice([length, 2**32 - 1]))
    )
    return b"\x93NUMPY" + bytes(version) + size + text + b"\n" + bytes(rng.choice([0, 9, 810, 90_000]))


def odd(rng):
    """An array of any type and shape."""
    shape = tuple(rng.choice([0, 1, 2, 3, 9, 9, 28, 784]) for _ in range(rng.randrange(6)))
    shape = shape if np.prod(shape, dtype=float) < 1e5 else shape[:1]
    kind = rng.choice(
        ["u1", "?", "i1", "i2", ">u4", "i8", "u8", "f2", "f4", ">f8", "g", "c16", "O", "U3", "S3", "M8[s]", "V3"]
    )
    array = np.zeros(shape, kind)
    with np.errstate(all="ignore"):
        for _ in range(rng.randrange(4) if array.size else 0):
            try:
                array.flat[rng.randrange(array.size)] = rng.choice(VALUES)
            except (TypeError, ValueError, OverflowError):
                continue
    return npy(array)


def member(rng, original):
    """The bytes of one array of an archive."""
    way = rng.random()
    return crafted(rng) if way < 0.45 else odd(rng) if way < 0.8 else spoilt(rng, original or b"x") or b""


def tampered(rng, content):
    """An archive with absurd numbers in its directory: sizes, methods, flags, versions, offsets, ZIP64 fields."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        entries = [at for at in range(len(data)) if data.startswith(b"PK\x01\x02", at)]
        at, end = rng.choice(entries), data.rindex(b"PK\x05\x06")
        number = rng.choice([0, 1, 2, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 2**31, rng.randrange(2**32)])
        if rng.random() < 0.5:
            offset, size = rng.choice(
                [(6, 2), (8, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4)]
            )
            data[at + offset : at + offset + size] = number.to_bytes(4, "little")[:size]
        elif rng.random() < 0.5:
            method = struct.pack("<H", rng.choice([8, 12, 14, 93, 99, 1]))
            local = struct.unpack_from("<I", data, at + 42)[0]
            data[at + 10 : at + 12] = method
            if local < len(data) - 10:
                data[local + 8 : local + 10] = method
        elif rng.random() < 0.5:
            offset = rng.choice([4, 8, 10, 12, 16, 20])
            data[end + offset : end + offset + 2] = struct.pack("<H", number & 0xFFFF)
        else:
            sizes = [rng.choice([0, 1, 10**9, 10**11, 2**63, 2**64 - 1]) for _ in range(rng.randrange(4))]
            extra = struct.pack(f"<HH{len(sizes)}Q", 1, rng.choice([8 * len(sizes), 4, 0xFFFF]), *sizes)
            name = struct.unpack_from("<H", data, at + 28)[0]
            data[at + 20 : at + 28] = b"\xff" * 8
            data[at + 30 : at + 32] = struct.pack("<H", len(extra))
            data[at + 46 + name : at + 46 + name] = extra
            end = data.rindex(b"PK\x05\x06")
            directory = struct.unpack_from("<I", data, end + 12)[0]
            data[end + 12 : end + 16] = struct.pack("<I", min(directory + len(extra), 2**32 - 1))
    return bytes(data)


def archive(members, compression):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def members(rng, stored):
    """The arrays of a data set, by name, of which some are changed."""
    found = [(name, npy(array)) for name, array in stored.items()]
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        at = rng.randrange(len(found))
        found[at] = found[at][0], member(rng, found[at][1])
    if rng.random() < 0.2:
        found.append((rng.choice(KEYS + NAMES), odd(rng)))
    if rng.random() < 0.15:
        found[rng.randrange(len(found))] = rng.choice(NAMES), npy(stored["train_images"])
    return found


def readings(array):
    """The images, float64 [n, height, width, 3], that an array may stand for, as numbers, 8-bit levels or neither."""
    if array.dtype.kind in "biuf" and array.ndim in (3, 4) and array.size:
        with np.errstate(all="ignore"):
            values = array.astype(np.float64)
            for levels in (values, values * 255, (values + 1) * 127.5):
                for last in [levels[..., None]] if levels.ndim == 3 else [levels, np.moveaxis(levels, 1, 3)]:
                    if last.shape[3] in (1, 3):
                        yield np.rint(np.broadcast_to(last, (*last.shape[:3], 3)))


def indices(array, classes):
    """The labels, lists of int, that an array may stand for."""
    if array.dtype.kind in "US" and array.size:
        words = array.ravel().astype("U")
        yield np.unique(words, return_inverse=True)[1].tolist()
        yield [classes.index(word) if word in classes else -1 for word in words]
    elif array.dtype.kind in "biuf":
        yield array.ravel().tolist()
        if array.ndim == 2 and array.size:
            yield array.argmax(axis=1).tolist()


def check_values(dataset, stored):
    """Every image and label of a data set is as numpy reads it in one of the arrays."""
    for split in (dataset.train, dataset.validation, dataset.test):
        if len(split):
            assert any(np.array_equal(split.images, images) for array in stored for images in readings(array))
            assert any(
                split.labels.tolist() == labels for array in stored for labels in indices(array, dataset.classes)
            )


def readable(read, keys):
    """The arrays among keys that numpy can read without unpickling."""
    for key in keys:
        try:
            yield read(key)
        except Exception:
            continue


@pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:Reading `.npy` or `.npz` file required additional header")
@examples(60, 1500)
def test_an_archive_of_arrays_is_read_or_refused(examples, tmp_path):
    path = tmp_path / "data.npz"
    found = {True: 0, False: 0}

    def make(rng):
        usual = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 4
        compression = rng.choice([*usual, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        stored = arrays(classes=np.array(list("abc")))
        files = members(rng, stored)
        content, way = archive(files, compression), rng.random()
        valid = files == [(name, npy(array)) for name, array in stored.items()] and compression in usual and way >= 0.5
        return (tampered(rng, content) if way < 0.35 else spoilt(rng, content) if way < 0.5 else content), valid

    def check(case):
        content, valid = case
        put(path, content)
        dataset, message = refused(lambda: load_dataset(f"npz:{path}"))
        found[dataset is not None] += 1
        if dataset is None:
            assert not valid and len(message) < 1500
        else:
            with zipfile.ZipFile(path) as file:
                check_values(dataset, [*readable(lambda name: np.load(io.BytesIO(file.read(name))), file.namelist())])

    repeat(check, examples, make)
    assert found[True] and found[False] > examples / 3


@examples(20, 500)
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header")
def test_a_directory_of_arrays_is_read_or_refused(examples, tmp_path):
    found = {True: 0, False: 0}

    def check(files):
        for path in tmp_path.iterdir():
            path.unlink()
        for name, content in files:
            (tmp_path / f"{name.replace('/', '_')[:200]}.npy").write_bytes(content)
        dataset, _ = refused(lambda: load_dataset(f"npz:{tmp_path}"))
        found[dataset is not None] += 1
        if dataset is not None:
            check_values(dataset, [*readable(np.load, tmp_path.iterdir())])

    repeat(check, examples, lambda rng: members(rng, arrays(classes=np.array(list("abc")))))
    assert found[True] and found[False]


PICKLED = b"0123456789(.)]}abceghijlopqrstuNIJKLMGUTXVFSR\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x93\x94\x95\x96"


def pickled(rng, content):
    """A pickle in which some opcodes are others, or some bytes damaged."""
    data = bytearray(content)
    if rng.random() < 0.3:
        return spoilt(rng, content) or b""
    for _ in range(rng.randrange(1, 6)):
        at = rng.choice([rng.randrange(len(data)), rng.randrange(min(300, len(data)))])
        data[at : at + rng.randrange(2)] = bytes([rng.choice(PICKLED)])
    return bytes(data)


@examples(30, 1000)
def test_an_archive_of_cifar_is_read_or_refused(examples, tmp_path):
    rng = np.random.default_rng(0)
    content = {
        "labels": list(range(10)),
        "data": rng.integers(0, 256, (10, 3072), np.uint8),
        "filenames": ["a.png"] * 10,
    }
    names = {"label_names": list(cifar.ARCHIVES["cifar10"].classes)}
    unpacked, path = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz"
    unpacked.mkdir()

    def make(rng):
        protocol = rng.randrange(6)
        files = {file: pickle.dumps(content, protocol) for file in cifar.ARCHIVES["cifar10"].files}
        files["batches.meta"] = pickle.dumps(names, protocol)
        file = rng.choice(list(files))
        return files | {file: pickled(rng, files[file])}

    def check(files):
        for file, data in files.items():
            (unpacked / file).write_bytes(data)
        refused(lambda: load_dataset("cifar10", str(tmp_path)))

    repeat(check, examples, make)
    for file in unpacked.iterdir():
        file.unlink()

    def packed(rng):
        data = gzip.compress(bytes(rng.choice([0, 511, 512, 9999])) + rng.randbytes(600) + bytes(2048), 1)
        return spoilt(rng, data) or b""

    def check_packed(data):
        path.write_bytes(data)
        refused(lambda: load_dataset("cifar10", str(tmp_path)), path)

    repeat(check_packed, examples // 3, packed)
