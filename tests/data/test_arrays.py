"""Data sets in files of arrays: what has one meaning is read exactly, everything else is refused in one line."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from jresnet.data.datasets import load_dataset
from jresnet.errors import InputError
from tests.support.datasets import arrays, pixels, refused


def load_npz(folder, **changes):
    np.savez(folder / "data.npz", **arrays(**changes))
    return load_dataset(f"npz:{folder / 'data.npz'}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_are_read_as_stored_and_do_not_follow_the_file(tmp_path, save):
    stored = arrays(val_images=pixels(2, 6, 5, 3), val_labels=np.array([[1], [0]], np.uint8))
    save(tmp_path / "data.npz", **stored)
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}")
    with open(tmp_path / "data.npz", "r+b") as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))
    for split, prefix in ((dataset.train, "train"), (dataset.validation, "val"), (dataset.test, "test")):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert np.array_equal(split.images, stored[f"{prefix}_images"])
        assert np.array_equal(split.labels, stored[f"{prefix}_labels"].ravel())
    assert dataset.image_size == (6, 5)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.name == f"npz:{tmp_path / 'data.npz'}"
    assert len(dataset.validation) == 2


@pytest.mark.parametrize("channels", [(), (1,)])
def test_npz_grayscale_is_repeated_to_3_channels(tmp_path, channels):
    train, test = pixels(9, 6, 5, *channels), pixels(4, 6, 5, *channels)
    dataset = load_npz(tmp_path, train_images=train, test_images=test)
    for channel in range(3):
        assert np.array_equal(dataset.train.images[..., channel], train.reshape(9, 6, 5))
    assert len(dataset.validation) == 0 and dataset.validation.images.shape == (0, 6, 5, 3)


@pytest.mark.parametrize("dtype", ["u1", "i8", ">i2", "u8"])
def test_npz_labels_of_any_integer_type(tmp_path, dtype):
    dataset = load_npz(tmp_path, train_labels=(np.arange(9) % 3).astype(dtype)[:, None])
    assert dataset.train.labels.dtype == np.int32
    assert dataset.train.labels.tolist() == [0, 1, 2] * 3


def test_npz_classes_and_memory_order(tmp_path):
    images = np.asfortranarray(pixels(9, 6, 5, 3))
    dataset = load_npz(tmp_path, classes=np.array(["ä", "b", "c"]), train_images=images)
    assert dataset.classes == ("ä", "b", "c")
    assert np.array_equal(dataset.train.images, images) and dataset.train.images.flags.c_contiguous


BAD_NPZ = {
    "missing": (
        dict(train_labels=None, test_images=None),
        ["lacks train_labels, test_images", "has test_labels, train_images", "give it"],
    ),
    "half validation": (dict(val_images=pixels(2, 6, 5, 3)), ["lacks val_labels"]),
    "float images": (dict(train_images=np.zeros((9, 6, 5, 3))), ["float64", "uint8 from 0 to 255"]),
    "flat images": (dict(train_images=pixels(9, 90)), ["(9, 90)", "make it"]),
    "two channels": (dict(test_images=pixels(4, 6, 5, 2)), ["(4, 6, 5, 2)"]),
    "channels first": (dict(train_images=pixels(9, 3, 6, 5)), ["(9, 3, 6, 5)", "1 or 3 channels"]),
    "volumes": (dict(train_images=pixels(9, 6, 5, 4, 3)), ["(9, 6, 5, 4, 3)"]),
    "no pixels": (dict(train_images=pixels(9, 0, 5, 3)), ["(9, 0, 5, 3)"]),
    "test size": (dict(test_images=pixels(4, 5, 6, 3)), ["test images are 5 x 6", "images 6 x 5", "resize"]),
    "lengths": (dict(test_labels=np.arange(3)), ["4", "3", "one label per image"]),
    "no images": (dict(test_images=pixels(0, 6, 5, 3), test_labels=np.zeros(0, int)), ["none: give at least one"]),
    "negative": (dict(train_labels=np.arange(9) % 3 - 1), ["-1", "from 0"]),
    "gap": (dict(train_labels=np.arange(9) % 3 * 2), ["2 of 5 classes", "(1, 3)", "without gaps"]),
    "huge gap": (dict(train_labels=np.array([0, 2**31 - 1] * 4 + [1])), ["2147483645 of 21474836", ", ..."]),
    "beyond int32": (dict(train_labels=np.array([0, 2**40] * 4 + [1])), [str(2**40)]),
    "unseen": (dict(test_labels=np.array([0, 1, 2, 3])), ["test_labels reach 3", "only 2", "remove their test images"]),
    "multi-label": (dict(train_labels=np.zeros((9, 14), int)), ["(9, 14)", "one class per image"]),
    "one class": (dict(train_labels=np.zeros(9, int), test_labels=np.zeros(4, int)), ["1 class", "2"]),
    "float labels": (dict(train_labels=np.arange(9) % 3 / 1), ["float64", "integers"]),
    "boolean labels": (dict(train_labels=np.arange(9) % 2 == 0), ["bool"]),
    "few names": (dict(classes=np.array(["a", "b"])), ["2 class names", "labels up to 2"]),
    "many names": (dict(classes=np.array(["a", "b", "c", "zebra"])), ["1 of 4 classes", "(zebra)"]),
    "numbered names": (dict(classes=np.arange(3)), ["classes", "strings"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_is_refused(tmp_path, case):
    changes, parts = BAD_NPZ[case]
    np.savez(tmp_path / "data.npz", **arrays(**changes))
    refused(f"npz:{tmp_path / 'data.npz'}", tmp_path / "data.npz", *parts)


@pytest.mark.parametrize("key", ["train_images", "train_labels", "test_labels", "classes"])
def test_pickled_objects_are_refused_and_never_executed(tmp_path, key):
    executed, path = tmp_path / "executed", tmp_path / "data.npz"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(executed),)

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    np.savez(path, **arrays(**{key: None}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + pickle.dumps(np.array([Bomb()], object)))
    refused(f"npz:{path}", key, "pickled", "save it again")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb()))
    refused(f"npz:{tmp_path / 'bare.npz'}", "not an .npz file", "np.savez")
    assert not executed.exists()
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
        np.lib.format.read_array(member, allow_pickle=True)
    assert executed.exists(), "numpy itself would execute the pickle"


def test_missing_files_and_other_formats(tmp_path):
    refused(f"npz:{tmp_path / 'none.npz'}", "no file", tmp_path / "none.npz", "give the path")
    refused(f"npz:{tmp_path}", "no file", tmp_path)
    np.save(tmp_path / "one.npy", pixels(3, 3))
    refused(f"npz:{tmp_path / 'one.npy'}", "not an .npz file", tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(f"npz:{tmp_path / 'text.npz'}", "lacks train_images", "nothing")


def test_messages_contain_the_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("npz:none.npz", tmp_path / "none.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz(tmp_path, save):
    """Damaged bytes are refused, or do not matter; they never result in other data."""
    file = tmp_path / "data.npz"
    save(file, **arrays())
    intact, sha256 = file.read_bytes(), load_dataset(f"npz:{file}").sha256
    for end in (0, 10, len(intact) // 2, len(intact) - 30):
        file.write_bytes(intact[:end])
        refused(f"npz:{file}", file, "truncated")
    refusals = 0
    for position in range(0, len(intact), 61):
        damage = bytes(byte ^ 0xFF for byte in intact[position : position + 8])
        file.write_bytes(intact[:position] + damage + intact[position + 8 :])
        try:
            assert load_dataset(f"npz:{file}").sha256 == sha256
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > len(intact) / 61 / 2


def test_a_header_with_a_larger_shape_than_the_data(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32, 3)})
    np.savez(tmp_path / "data.npz", **arrays(train_images=None))
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("train_images.npy", buffer.getvalue() + b"short")
    refused(f"npz:{tmp_path / 'data.npz'}", "train_images is shorter than its header says")
