"""CIFAR's own archives: read in the order of their files, whoever pickled them, and nothing in them is executed."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import pickletools
import struct
import tarfile

import numpy as np
import pytest

from jresnet.data import pickles, tfds_reader
from jresnet.data.arrays import cifar, pickled_arrays
from jresnet.data.datasets import load_dataset
from tests.support.datasets import pixels, refused

TEN, HUNDRED = cifar.ARCHIVES["cifar10"], cifar.ARCHIVES["cifar100"]


@pytest.fixture(autouse=True)
def no_tfds(monkeypatch):
    """Neither TensorFlow nor TFDS is imported, except where a test reads prepared data."""
    monkeypatch.setattr(tfds_reader, "_import", lambda module: pytest.fail(f"imported {module}"))


def python_2(value):
    """A pickle of protocol 2 as Python 2 and its numpy wrote it; text is bytes."""
    if isinstance(value, dict):
        items = b"".join(python_2(key) + python_2(item) for key, item in value.items())
        return b"}q\x01(" + items + b"u"
    if isinstance(value, list):
        return b"]q\x02(" + b"".join(map(python_2, value)) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value])
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode() + b"q\x03"
    shape = b"".join(b"M" + struct.pack("<H", side) for side in value.shape)
    dtype = b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = b"T" + struct.pack("<I", value.nbytes) + value.tobytes()
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return start + b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + data + b"tb"


def packed(value, protocol):
    if protocol == "Python 2":
        return b"\x80\x02" + python_2(value) + b"."
    keep = {key.encode(): item for key, item in value.items()} if protocol % 2 else value
    return pickle.dumps(keep, protocol)


def batches(archive, n=20, protocol="Python 2", **changes):
    """The files of an archive of `n` images each, and the images and labels of its splits."""
    classes = len(archive.classes)
    files = {next(iter(archive.meta)): {archive.names: list(archive.classes)}}
    for index, file in enumerate(archive.train | archive.test):
        labels = [(label + index) % classes for label in range(n)]
        files[file] = {"batch_label": "x", archive.labels: labels, "data": pixels(n, 3072), "filenames": ["a.png"] * n}
    content = {file: packed(value | changes.get(file, {}), protocol) for file, value in files.items()}
    return content, files


def unpack(content, directory):
    directory.mkdir(parents=True, exist_ok=True)
    for file, data in content.items():
        (directory / file).write_bytes(data)


def tar(content, path, prefix=""):
    with tarfile.open(path, "w:gz") as archive:
        for file, data in content.items():
            member = tarfile.TarInfo(prefix + file)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def expected(files, names, labels):
    """Pixel by pixel, as CIFAR's page describes its rows."""
    images = np.concatenate([files[name]["data"] for name in names])
    red, green, blue = images[:, :1024], images[:, 1024:2048], images[:, 2048:]
    stacked = np.stack([part.reshape(-1, 32, 32) for part in (red, green, blue)], axis=-1)
    return stacked, [label for name in names for label in files[name][labels]]


@pytest.mark.parametrize("protocol", ["Python 2", 0, 1, 2, 3, 4, 5])
def test_an_unpacked_archive_is_cifar10(tmp_path, monkeypatch, caplog, protocol):
    content, files = batches(TEN, protocol=protocol)
    unpack(content, tmp_path / "cifar-10-batches-py")
    dataset = load_dataset("cifar10", str(tmp_path))
    images, labels = expected(files, [f"data_batch_{n}" for n in (1, 2, 3, 4, 5)], "labels")
    assert np.array_equal(dataset.train.images, images) and dataset.train.labels.tolist() == labels
    images, labels = expected(files, ["test_batch"], "labels")
    assert np.array_equal(dataset.test.images, images) and dataset.test.labels.tolist() == labels
    assert dataset.classes[:3] == ("airplane", "automobile", "bird") and len(dataset.classes) == 10
    assert [r.getMessage().count("not as published") for r in caplog.records] == [1]
    assert load_dataset("cifar10", str(tmp_path / "cifar-10-batches-py")).sha256 == dataset.sha256
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load_dataset("cifar10").sha256 == dataset.sha256


def test_cifar100_has_fine_labels(tmp_path):
    content, files = batches(HUNDRED, n=100)
    for file in ("train", "test"):
        content[file] = packed(files[file] | {"coarse_labels": [0] * 100}, "Python 2")
    unpack(content, tmp_path / "cifar-100-python")
    dataset = load_dataset("cifar100", str(tmp_path))
    images, labels = expected(files, ["train"], "fine_labels")
    assert np.array_equal(dataset.train.images, images) and dataset.train.labels.tolist() == labels
    assert len(set(dataset.classes)) == 100 and sorted(dataset.classes) == list(dataset.classes)


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz"])
def test_a_packed_archive_is_read_without_unpacking(tmp_path, name):
    content, files = batches(TEN)
    tar({"../../escape": b"x", "/tmp/x/readme.html": b"<html>"} | content, tmp_path / name, "cifar-10-batches-py/")
    dataset = load_dataset("cifar10", str(tmp_path))
    assert np.array_equal(dataset.test.images, expected(files, ["test_batch"], "labels")[0])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_published_files_are_not_said_to_be_others(tmp_path, monkeypatch, caplog):
    content, _ = batches(TEN)
    unpack(content, tmp_path)
    for file, data in content.items():
        place = next(part for part in (TEN.train, TEN.test, TEN.meta) if file in part)
        monkeypatch.setitem(place, file, hashlib.md5(data).hexdigest())
    load_dataset("cifar10", str(tmp_path))
    assert not caplog.records
    unpack({"data_batch_3": batches(TEN)[0]["data_batch_3"]}, tmp_path)
    load_dataset("cifar10", str(tmp_path))
    assert "data_batch_3 is not as published" in caplog.text


def test_what_is_prepared_comes_first(tmp_path, monkeypatch):
    unpack(batches(TEN)[0], tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar10/3.0.2").mkdir(parents=True)
    load_dataset("cifar10", str(tmp_path))
    (tmp_path / "cifar10/3.0.2/dataset_info.json").touch()
    monkeypatch.setattr("jresnet.data.datasets.read_tfds", lambda source: pytest.fail("read by TFDS"))
    with pytest.raises(pytest.fail.Exception, match="read by TFDS"):
        load_dataset("cifar10", str(tmp_path))


def test_a_complete_archive_comes_before_an_incomplete_one(tmp_path):
    content, _ = batches(TEN)
    unpack({"data_batch_1": content["data_batch_1"]}, tmp_path / "cifar-10-batches-py")
    refused(
        "cifar10", "lacks data_batch_2, data_batch_3", "test_batch", "cifar-10-python.tar.gz", data_dir=str(tmp_path)
    )
    tar(content, tmp_path / "cifar-10-python.tar.gz")
    assert len(load_dataset("cifar10", str(tmp_path)).train) == 100


def test_unused_classes_are_left_out(tmp_path, caplog):
    labels = {file: {"labels": [3, 5] * 10} for file in TEN.train | TEN.test}
    unpack(batches(TEN, **labels)[0], tmp_path)
    dataset = load_dataset("cifar10", str(tmp_path))
    assert dataset.classes == ("cat", "dog") and dataset.test.labels.tolist() == [0, 1] * 10
    assert "8 of 10 classes have no training image" in caplog.text


NESTED = functools.reduce(lambda inner, _: [inner, inner], range(100), [])  # 2**100 lists if it were printed

BAD = {
    "names": (
        "batches.meta",
        {"label_names": ["airplane", "bird"]},
        ["names class 1 'bird', not 'automobile'", "npz:"],
    ),
    "no names": ("batches.meta", {"label_names": None}, ["holds no label_names"]),
    "names of lists": ("batches.meta", {"label_names": NESTED}, ["holds no label_names"]),
    "labels of lists": ("test_batch", {"labels": NESTED}, ["no labels from 0 to 9"]),
    "labels beyond": ("test_batch", {"labels": [10] * 20}, ["test_batch", "no labels from 0 to 9"]),
    "negative labels": ("test_batch", {"labels": [-1] * 20}, ["no labels from 0 to 9"]),
    "labels of words": ("test_batch", {"labels": ["cat"] * 20}, ["no labels from 0 to 9"]),
    "no labels": ("test_batch", {"labels": None}, ["no labels from 0 to 9"]),
    "few labels": ("test_batch", {"labels": [1]}, ["20 images and 1 labels"]),
    "shape": ("data_batch_2", {"data": pixels(20, 32, 32, 3)}, ["data_batch_2 holds no data of uint8 [n, 3072]"]),
    "floats": ("data_batch_2", {"data": np.zeros((20, 3072))}, ["holds no data of uint8"]),
    "objects": ("data_batch_2", {"data": np.array([{}])}, ["cannot be read as arrays alone"]),
    "records": ("data_batch_2", {"data": np.zeros(2, "u1,u1")}, ["cannot be read as arrays alone"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused(tmp_path, case):
    file, change, parts = BAD[case]
    unpack(batches(TEN, protocol=4, **{file: change})[0], tmp_path)
    refused("cifar10", tmp_path / file, *parts, data_dir=str(tmp_path))


def test_damaged_archives_are_refused(tmp_path):
    content, _ = batches(TEN)
    path = tmp_path / "cifar-10-python.tar.gz"
    tar(content, path)
    intact = path.read_bytes()
    for damaged in (b"", intact[: len(intact) // 2], b"no archive", intact[:200] + b"x" * 9 + intact[209:]):
        path.write_bytes(damaged)
        refused("cifar10", path, data_dir=str(tmp_path))


def huge(path, name, size, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.type = size, kind
        archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(2**16))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [2**60, 2**28, -1, -(2**40), 2**20])
def test_lying_sizes_are_refused(tmp_path, kind, size):
    path = tmp_path / "cifar-10-python.tar.gz"
    huge(path, "cifar-10-batches-py/data_batch_1", size, kind)
    refused("cifar10", path, data_dir=str(tmp_path))


def test_sparse_impossible_and_many_members_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 2**27  # of zeros, of which the archive holds none
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    path.write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    with tarfile.open(path) as archive:
        assert archive.getmembers()[0].size == 2**27
    refused("cifar10", path, "lacks data_batch_1", data_dir=str(tmp_path))
    huge(path, "cifar-10-batches-py/data_batch_1", -1)
    refused("cifar10", path, "impossible members", data_dir=str(tmp_path))
    tar(batches(TEN)[0], path)
    monkeypatch.setattr(cifar, "_MOST_MEMBERS", 3)
    refused("cifar10", path, "too many", data_dir=str(tmp_path))


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    tar(batches(TEN)[0], tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar, "_LARGEST", 200_000)
    refused("cifar10", "unpacks to over 200,000 bytes", data_dir=str(tmp_path))
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    unpack(batches(TEN)[0] | {"data_batch_1": bytes(200_001)}, tmp_path)
    refused("cifar10", "data_batch_1 has over 200,000 bytes", data_dir=str(tmp_path))


def test_an_archive_is_named_where_a_version_excludes_it(tmp_path):
    unpack(batches(TEN)[0], tmp_path / "cifar-10-batches-py")
    remedy = cifar.remedy("cifar10:3.0.2", str(tmp_path))
    assert f"use {tmp_path}/cifar-10-batches-py, and call it cifar10, without a version" in remedy
    assert "put cifar-10-python.tar.gz" in cifar.remedy("cifar10:3.0.2", str(tmp_path / "none"))
    assert "call it" not in cifar.remedy("cifar10", str(tmp_path)) and cifar.remedy("mnist:3.0.1", str(tmp_path)) == ""


def test_other_names_and_other_directories_are_not_searched(tmp_path):
    unpack(batches(TEN)[0], tmp_path / "cifar-10-batches-py")
    assert cifar.find("cifar10", str(tmp_path)) and not cifar.find("cifar100", str(tmp_path))
    assert not cifar.find("cifar10:3.0.2", str(tmp_path)) and not cifar.find("cifar10", str(tmp_path / "none"))


# Pickles


def test_what_a_pickle_holds_is_what_pickle_reads():
    big = {
        "data": np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)), b"b": [1, -(2**70), 2.5, True, None, "é"],
        "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), 3: [np.float32(0.5), np.int64(7)],
        "e": [[], {}, b"", b"\xff"],
    }  # fmt: skip
    for protocol in range(6):
        found = pickled_arrays.read(pickle.dumps(big, protocol))
        assert np.array_equal(found["data"], big["data"]) and found["data"].dtype == big["data"].dtype
        del found["data"]
        assert found == {key: value for key, value in big.items() if key != "data"}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


CRAFTED = {
    "a call": pickle.dumps({"data": Evil()}),
    "a call of eval": b"c__builtin__\neval\n(U\x011tR.",
    "a name that is made": b"\x80\x04U\x02osU\x06system\x93U\x04true\x85R.",
    "a persistent name": b"Pname\n.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a new object": b"cos\nsystem\n)\x81.",
    "a state of a list": b"](K\x01tb.",
    "a state of a name": b"cnumpy\nndarray\n}b.",
    "no end": b"]q\x00",
    "nothing": b"",
    "an empty stack": b".",
    "no mark": b"u.",
    "an unknown memo": b"h\x05.",
    "a huge memo": b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff.",
    "huge text": b"T\xff\xff\xff\x7fabc.",
    "huge bytes": b"\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "a huge number": b"I" + b"9" * 9999 + b"\n.",
    "a deep key": b"}" + b")" + b"\x85" * 100_000 + b"NsK\x01.",
    "an array as a key": b"}]Ns.",
    "a far place": b"Np9999999999\n.",
    "a far key": b"}\x8a\x05\0\0\0\0\x01Ns.",
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b"K",
    "many copies": b"X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\x00"
    + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 1000 + b".",
    "many arrays of one text": b"cnumpy\ndtype\nU\x02u1\x85Rq\x00T" + struct.pack("<I", 10**4) + b"a" * 10**4 + b"q\x01"
    + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R(K\x01M\x10\x27\x85h\x00\x89h\x01tb" * 1000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_pickles_are_refused(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"no part of data|no pickle|expected|what is no|exhausted|memory|newline|integer|not enough|impossible",
    ) as caught:
        pickled_arrays.read(CRAFTED[case])
    assert len(str(caught.value)) < 500 and not list(tmp_path.iterdir())


def test_many_operations_are_refused(monkeypatch):
    monkeypatch.setattr(pickles, "OPERATIONS", 1000)
    assert pickled_arrays.read(b"N" * 999 + b".") is None
    with pytest.raises(ValueError, match="more than 1,000 operations"):
        pickled_arrays.read(b"N" * 1000 + b".")


@pytest.mark.parametrize(
    ("shape", "code"),
    [((2**31 - 1,), "u1"), ((2**62, 4), "u1"), ((-1,), "u1"), ((1.5,), "u1"), ((True,), "u1"), ((4,), "O8"),
     ((4,), "V1"), ((4,), "S999999999"), ((4,), "M8[ns]"), ((0, 2**40), "u1"), ((5,), "u1"), ((3,), "u1"),
     (("x",), "u1")],
)  # fmt: skip
def test_arrays_of_other_shapes_or_types_are_refused(shape, code):
    class Crafted:
        def __reduce__(self):
            return (
                np.ndarray.__reduce__(np.zeros(1, np.uint8))[0],
                (np.ndarray, (0,), b"b"),
                (1, shape, Dtype(), False, b"abcd"),
            )

    class Dtype:
        def __reduce__(self):
            return np.dtype, (code, False, True)

    with pytest.raises(ValueError, match=r"an array of|an array without|no part of data"):
        pickled_arrays.read(pickle.dumps({"data": Crafted()}, 2))


def test_the_disassembler_knows_every_opcode_of_honest_pickles():
    """So that a new protocol is noticed."""
    assert max(opcode.proto for opcode in pickletools.opcodes) == pickle.HIGHEST_PROTOCOL == 5
