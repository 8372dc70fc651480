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


HOT = np.eye(3, dtype=np.uint8)[np.arange(9) % 3]
NAN = np.where(np.arange(5)[:, None] == 2, np.nan, np.zeros((9, 6, 5, 3)))


def one_hot(columns, least):
    """Labels of three classes from `least` on, of as many as there are columns."""
    rows = np.eye(columns)[least + np.arange(9) % 3]
    return {"train_labels": rows, "test_labels": rows[:4]}


BAD_NPZ = {
    "missing": (
        dict(train_labels=None, test_images=None),
        ["lacks train_labels, test_images", "has test_labels, train_images", "give it"],
    ),
    "no test": (dict(test_images=None, test_labels=None), ["no test images", "--holdout-test N"]),
    "no train": (dict(train_images=None, train_labels=None), ["lacks train_images, train_labels", "has test_images"]),
    "a partner in its own style": (dict(xTest=pixels(2, 3), test_images=None, test_labels=None), ["lacks yTest"]),
    "two names of one": (dict(x_train=pixels(2, 3)), ["train_images and x_train, which mean the same", "give it"]),
    "unsplit beside train": (dict(images=pixels(2, 3)), ["images and train_images, which mean the same"]),
    "unknown names": (dict.fromkeys(arrays()) | {"arr_0": HOT, "arr_1": HOT}, ["lacks train_", "has arr_0, arr_1"]),
    "half validation": (dict(val_images=pixels(2, 6, 5, 3)), ["lacks val_labels"]),
    "one split of floats": (
        dict(train_images=np.zeros((9, 6, 5, 3))),
        ["train images are float64 (0 to 1), test images are uint8 (0 to 255)"],
    ),
    "one split of booleans": (dict(test_images=pixels(4, 6, 5, 3) > 9), ["test images are bool (booleans)", "one way"]),
    "two kinds of floats": (
        dict(train_images=pixels(9, 6, 5, 3) / 256, test_images=pixels(4, 6, 5, 3) / 255),
        ["no level of 8 bits", "round()"],
    ),
    "standardised": (
        dict(train_images=pixels(9, 6, 5, 3) / 255 * 4 - 2, test_images=pixels(4, 6, 5, 3) / 255 * 4 - 2),
        ["from -2 to 2", "standardised"],
    ),
    "NaN": (dict(train_images=NAN, test_images=pixels(4, 6, 5, 3) / 255), ["train images are float64 with NaN"]),
    "infinity": (dict(train_images=NAN - np.inf, test_images=NAN[:4]), ["with NaN or infinity"]),
    "16 bits": (dict(train_images=pixels(9, 6, 5, 3) * np.uint16(257)), ["uint16 from 0 to 65535", "/ 257"]),
    "overflowed": (dict(train_images=pixels(9, 6, 5, 3).astype(np.int8)), ["int8 from -1", "128 was subtracted"]),
    "deep": (dict(train_images=pixels(9, 6, 5, 3) * np.int64(10**6)), ["int64 from 0 to 255000000", "from 0 to 255"]),
    "complex images": (dict(train_images=pixels(9, 6, 5, 3) * 1j), ["complex128", "uint8 from 0 to 255"]),
    "words as images": (dict(train_images=np.full((9, 6, 5, 3), "a")), ["<U1", "uint8 from 0 to 255"]),
    "records": (dict(train_images=np.zeros(9, "u1, u1")), ["train_images", "neither numbers nor text"]),
    "CIFAR's rows": (
        dict(train_images=pixels(9, 3072)), ["(9, 3072)", "reshape(-1, 32, 32, 3)", "reshape(-1, 3, 32, 32)"],
    ),
    "MNIST's rows": (dict(train_images=pixels(9, 784)), ["(9, 784)", "save images.reshape(-1, 28, 28)"]),
    "with alpha": (dict(train_images=pixels(9, 6, 5, 4)), ["(9, 6, 5, 4)", "images[..., :3]"]),
    "flat images": (dict(train_images=pixels(9, 90)), ["(9, 90)", "make it"]),
    "two channels": (dict(test_images=pixels(4, 6, 5, 2)), ["(4, 6, 5, 2)"]),
    "channels first in one split": (dict(train_images=pixels(9, 3, 6, 5)), ["(9, 3, 6, 5)", "1 or 3 channels"]),
    "channels first or last": (
        dict(train_images=pixels(9, 3, 5, 3), test_images=pixels(4, 3, 5, 3)), ["(9, 3, 5, 3)", "channels last"],
    ),
    "volumes": (dict(train_images=pixels(9, 6, 5, 4, 3)), ["(9, 6, 5, 4, 3)"]),
    "one number": (dict(train_images=np.array(5)), ["train images have shape ()", "make it (n, height, width)"]),
    "a row of numbers": (dict(test_images=np.arange(4)), ["test images have shape (4,)", "make it (n, height, width)"]),
    "no pixels": (dict(train_images=pixels(9, 0, 5, 3)), ["(9, 0, 5, 3)"]),
    "test size": (dict(test_images=pixels(4, 5, 6, 3)), ["test images are 5 x 6", "images 6 x 5", "give --image-size"]),
    "lengths": (dict(test_labels=np.arange(3)), ["4", "3", "one label per image"]),
    "no images": (dict(test_images=pixels(0, 6, 5, 3), test_labels=np.zeros(0, int)), ["none: give at least one"]),
    "negative": (dict(train_labels=np.arange(9) % 3 - 1), ["-1", "from 0"]),
    "gap": (dict(train_labels=np.arange(9) % 3 * 2), ["2 of 5 classes", "(1, 3)", "without gaps"]),
    "huge gap": (dict(train_labels=np.array([0, 2**31 - 1] * 4 + [1])), ["2147483645 of 21474836", ", ..."]),
    "beyond int32": (dict(train_labels=np.array([0, 2**40] * 4 + [1])), [str(2**40)]),
    "unseen": (dict(test_labels=np.array([0, 1, 2, 3])), ["test_labels reach 3", "only 2", "remove their test images"]),
    "multi-label": (dict(train_labels=np.zeros((9, 14), int)), ["(9, 14)", "one class per image"]),
    "one class": (dict(train_labels=np.zeros(9, int), test_labels=np.zeros(4, int)), ["1 class", "2"]),
    "fractions": (dict(train_labels=np.arange(9) % 3 / 2), ["float64 such as 0.5", "integers"]),
    "NaN labels": (dict(train_labels=np.array([np.nan, 1, 2] * 3)), ["float64 such as nan", "integers"]),
    "huge labels": (dict(train_labels=np.array([1e300, 1, 2] * 3)), ["float64 such as 1e+300", "integers"]),
    "complex labels": (dict(train_labels=np.arange(9) * 1j), ["complex128", "integers"]),
    "from 1": (dict(train_labels=np.arange(9) % 3 + 1), ["from 1 to 3", "subtract 1", "if class 0 does not exist"]),
    "from 1, named": (
        dict(train_labels=np.arange(9) % 3 + 1, classes=np.array(["a", "b", "c"])), ["from 1 to 3", "subtract 1"],
    ),
    "multi-hot": (dict(train_labels=HOT | np.roll(HOT, 1, 1), test_labels=HOT[:4]), ["(9, 3)", "multi-hot"]),
    "no class": (dict(train_labels=HOT * (np.arange(9) > 0)[:, None], test_labels=HOT[:4]), ["multi-hot", "or none"]),
    "soft": (dict(train_labels=HOT * 0.8 + 0.1, test_labels=HOT[:4]), ["scores", "argmax(axis=1)"]),
    "one-hot, the last classes unused": (one_hot(5, 0), ["2 of 5 classes", "(3, 4)", "drop the empty columns"]),
    "one-hot, the first class unused": (one_hot(4, 1), ["1 of 4 classes", "(0)", "drop the empty columns"]),
    "one-hot, an unused class named": (one_hot(4, 0) | dict(classes=np.array(list("abcd"))), ["1 of 4 classes", "(d)"]),
    "one-hot, too few names": (
        one_hot(4, 0) | dict(classes=np.array(list("abc"))), ["4 columns for 3 class names", "one name per column"],
    ),
    "one-hot, too many names": (one_hot(3, 0) | dict(classes=np.array(list("abcd"))), ["3 columns for 4 class names"]),
    "labels without columns": (
        dict(train_labels=np.zeros((9, 0)), test_labels=np.zeros((4, 0))), ["(9, 0)", "several classes or none"],
    ),
    "labels without rows or columns": (
        dict(train_images=pixels(0, 6, 5, 3), train_labels=np.zeros((0, 0)), test_labels=np.zeros((4, 0))), ["(0, 0)"],
    ),
    "one-hot in one split": (dict(train_labels=HOT), ["(9, 3) and (4,)", "one way"]),
    "words in one split": (dict(train_labels=np.array(list("abc" * 3))), ["<U1", "int64", "one way"]),
    "words in a table": (dict(train_labels=np.full((9, 2), "a")), ["(9, 2)"]),
    "words that train lacks": (dict(train_labels=np.array(list("abc" * 3)), test_labels=np.array(list("abcd"))),
                               ["test labels hold 'd', which train lacks"]),
    "words beyond the classes": (dict(train_labels=np.array(list("abc" * 3)), test_labels=np.array(list("abcc")),
                                      classes=np.array(["b", "a"])), ["train labels hold 'c', which classes lacks"]),
    "numbers as text": (dict(train_labels=np.array(list("123" * 3)), test_labels=np.array(list("1231"))),
                        ["numbers as text, such as '1'", "astype(int)"]),
    "no characters": (dict(classes=np.full(9, 0x110000, np.uint32).view("U3")), ["classes", "no characters"]),
    "words of no characters": (
        dict(train_labels=np.full(9, 2**31, np.uint32).view("U1"), test_labels=np.array(list("abca"))),
        ["train labels hold numbers that are no characters"],
    ),
    "no UTF-8": (dict(train_labels=np.array([b"a", b"\xff", b"c"] * 3), test_labels=np.array([b"a"] * 4)),
                 ["train labels are bytes that are no UTF-8"]),
    "few names": (dict(classes=np.array(["a", "b"])), ["2 class names", "labels up to 2"]),
    "many names": (dict(classes=np.array(["a", "b", "c", "zebra"])), ["1 of 4 classes", "(zebra)"]),
    "doubled names": (dict(classes=np.array(["a", "b", "a"])), ["two classes have the name 'a'", "rename"]),
    "names that look equal": (dict(classes=np.array(["\xe9", "b", "e\u0301"])), ["two classes have the name"]),
    "empty name": (dict(classes=np.array(["a", " ", "c"])), ["name of class 1 is ' '", "name the class"]),
    "names twice": (dict(classes=np.array(list("abc")), class_names=HOT), ["classes and class_names"]),
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
    refused(f"npz:{tmp_path / 'none.npz'}", "no such file", tmp_path / "none.npz", "give the path")
    os.mkfifo(tmp_path / "pipe.npz")
    refused(f"npz:{tmp_path / 'pipe.npz'}", "is a device or a pipe", "give the path")
    refused(f"npz:{tmp_path}", "lacks train_images, train_labels", "nothing", tmp_path)
    np.save(tmp_path / "one.npy", pixels(3, 3))
    refused(f"npz:{tmp_path / 'one.npy'}", "not an .npz file", tmp_path / "one.npy", "give the directory")
    refused(f"npz:{tmp_path}", "lacks train_images, train_labels", "has one", tmp_path)
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


# Layouts and values


def rename(stored, names):
    return {names.get(key, key): array for key, array in stored.items()}


LAYOUTS = {
    "Keras": dict(train_images="x_train", train_labels="y_train", test_images="x_test", test_labels="y_test"),
    "capitals": dict(train_images="X_train", train_labels="Y_train", test_images="X_test", test_labels="Y_test"),
    "scikit-learn": dict(train_images="X_train", train_labels="y_train", test_images="X_test", test_labels="y_test"),
    "split first": dict(train_images="train_x", train_labels="train_y", test_images="test_x", test_labels="test_y"),
    "camel case": dict(train_images="trainX", train_labels="trainY", test_images="testX", test_labels="testY"),
    "data": dict(
        train_images="train_data", train_labels="train_labels", test_images="test_data", test_labels="test_labels"
    ),
    "targets": dict(
        train_images="training/data", train_labels="training/targets", test_images="testing.data",
        test_labels="testing.targets",
    ),
    "mixed": dict(train_images="images", train_labels="y_train", test_images="test-img", test_labels="test_label"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_arrays_with_one_meaning(tmp_path, layout):
    stored = arrays()
    np.savez(tmp_path / "data.npz", **rename(stored, LAYOUTS[layout]))
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}")
    assert np.array_equal(dataset.train.images, stored["train_images"])
    assert dataset.train.labels.tolist() == stored["train_labels"].tolist()
    assert np.array_equal(dataset.test.images, stored["test_images"])
    assert dataset.test.labels.tolist() == stored["test_labels"].tolist()


@pytest.mark.parametrize("names", [("val_images", "val_labels"), ("x_val", "y_val"), ("x_valid", "y_valid"),
                                   ("dev_x", "dev_y"), ("X_validation", "y_validation")])  # fmt: skip
def test_names_of_the_validation_split(tmp_path, names):
    images = pixels(2, 6, 5, 3)
    dataset = load_npz(tmp_path, **{names[0]: images, names[1]: np.array([1, 0])})
    assert np.array_equal(dataset.validation.images, images) and dataset.validation.labels.tolist() == [1, 0]


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("X", "y"), ("data", "target")])
def test_arrays_without_a_split_are_training_images(tmp_path, names):
    images = pixels(9, 6, 5, 3)
    np.savez(tmp_path / "data.npz", **{names[0]: images, names[1]: np.arange(9) % 3})
    refused(f"npz:{tmp_path / 'data.npz'}", "no test images, only train", "--holdout-test N")
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}", holdout_test=3)
    assert (len(dataset.train), len(dataset.test)) == (6, 3)
    both = np.concatenate([dataset.train.images, dataset.test.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, images))


def test_a_directory_of_npy_files(tmp_path):
    stored = rename(arrays(classes=np.array(list("abc"))), LAYOUTS["Keras"])
    for name, array in stored.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "notes.txt").touch()
    dataset = load_dataset(f"npz:{tmp_path}")
    assert np.array_equal(dataset.train.images, stored["x_train"]) and dataset.classes == ("a", "b", "c")
    assert dataset.test.labels.tolist() == stored["y_test"].tolist()
    content = (tmp_path / "x_test.npy").read_bytes()
    for damage, part in (
        (content[:-200], "x_test is shorter than its header says"), (content[:-1], "is damaged"),
        (content[:50], "is damaged"), (b"", "is damaged"),
        (content[:10] + b"(" * 9000, "is damaged"),
    ):  # fmt: skip
        (tmp_path / "x_test.npy").write_bytes(damage)
        refused(f"npz:{tmp_path}", tmp_path / "x_test.npy", part)
    np.save(tmp_path / "x_test.npy", np.array([{}]), allow_pickle=True)
    refused(f"npz:{tmp_path}", tmp_path / "x_test.npy", "pickled", "np.stack(x_test)")


def test_other_arrays_are_said(tmp_path, caplog):
    load_npz(tmp_path, mean=np.zeros(3), train_ids=np.arange(9))
    assert [r.getMessage() for r in caplog.records] == [f"{tmp_path / 'data.npz'}: mean, train_ids are not used"]


LEVELS = {
    "unit": lambda k, kind: (k / 255).astype(kind),
    "unit in the dtype": lambda k, kind: k.astype(kind) / kind(255),
    "unit by a product": lambda k, kind: k.astype(kind) * kind(1 / 255),
    "unit by a rounded constant": lambda k, kind: k.astype(kind) * kind(0.003921569),
    "signed": lambda k, kind: (k / 127.5 - 1).astype(kind),
    "signed in the dtype": lambda k, kind: (k.astype(kind) / kind(255) - kind(0.5)) / kind(0.5),
    "whole": lambda k, kind: k.astype(kind),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("rule", LEVELS)
def test_floats_of_8_bits_are_read_exactly(tmp_path, rule, dtype):
    """Every level, whichever way it was computed."""
    levels = np.resize(np.arange(256, dtype=np.uint8), (9, 6, 5, 3))
    dataset = load_npz(
        tmp_path, train_images=LEVELS[rule](levels, dtype), test_images=LEVELS[rule](np.zeros((4, 6, 5, 3)), dtype)
    )
    assert np.array_equal(dataset.train.images, levels) and not dataset.test.images.any()


@pytest.mark.parametrize("dtype", ["i2", ">i4", "i8", "u2", "u8", ">f4", "f2"])
def test_images_of_other_types_within_8_bits(tmp_path, dtype):
    images = pixels(9, 6, 5, 3)
    dataset = load_npz(tmp_path, train_images=images.astype(dtype))
    assert np.array_equal(dataset.train.images, images)


def test_a_dark_split_follows_the_others(tmp_path):
    """Floats from 0 to 1 alone would be the whole range."""
    images, dark = pixels(9, 6, 5, 3), pixels(4, 6, 5, 3) % 2
    dataset = load_npz(tmp_path, train_images=images.astype(np.float32), test_images=dark.astype(np.float64))
    assert np.array_equal(dataset.test.images, dark)


def test_boolean_images_and_labels(tmp_path, caplog):
    masks = pixels(9, 6, 5) > 99
    dataset = load_npz(tmp_path, train_images=masks, test_images=masks[:4], train_labels=np.arange(9) > 4,
                       test_labels=np.arange(4) > 1)  # fmt: skip
    assert np.array_equal(dataset.train.images, np.repeat(masks[..., None], 3, 3) * np.uint8(255))
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 4
    assert "images are booleans" in caplog.text


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first(tmp_path, caplog, channels):
    images, test = pixels(9, channels, 6, 5), pixels(4, channels, 6, 5)
    dataset = load_npz(tmp_path, train_images=images, test_images=test)
    assert np.array_equal(dataset.train.images, np.repeat(np.moveaxis(images, 1, -1), 3 // channels, 3))
    assert dataset.train.images.flags.c_contiguous and dataset.image_size == (6, 5)
    assert f"(9, {channels}, 6, 5) are read as (n, channels, height, width)" in caplog.text


@pytest.mark.parametrize("dtype", ["u1", "i8", "?", "f4"])
def test_one_hot_labels(tmp_path, caplog, dtype):
    dataset = load_npz(tmp_path, train_labels=HOT.astype(dtype), test_labels=HOT[:4].astype(dtype))
    assert dataset.train.labels.tolist() == [0, 1, 2] * 3 and dataset.test.labels.tolist() == [0, 1, 2, 0]
    assert caplog.text.count("one-hot") == 1 and "argmax" in caplog.text


@pytest.mark.parametrize("dtype", ["U", "S"])
@pytest.mark.parametrize("column", [False, True])
def test_words_as_labels(tmp_path, caplog, dtype, column):
    train, test = (
        np.array(["owl", "cat", "dog"] * 3).astype(dtype),
        np.array(["cat", "owl", "dog", "cat"]).astype(dtype),
    )
    changes = dict(train_labels=train[:, None] if column else train, test_labels=test)
    dataset = load_npz(tmp_path, **changes)
    assert dataset.classes == ("cat", "dog", "owl") and dataset.train.labels.tolist() == [2, 0, 1] * 3
    assert dataset.test.labels.tolist() == [0, 2, 1, 0]
    assert caplog.text.count("sorted order") == 1
    dataset = load_npz(tmp_path, **changes, classes=np.array(["owl", "dog", "cat"]).astype(dtype))
    assert dataset.classes == ("owl", "dog", "cat") and dataset.test.labels.tolist() == [2, 0, 1, 2]


def test_whole_floats_as_labels(tmp_path):
    dataset = load_npz(tmp_path, train_labels=np.array([[2.0], [0.0], [1.0]] * 3, np.float32))
    assert dataset.train.labels.tolist() == [2, 0, 1] * 3


def test_levels_that_were_cut_to_0_and_1_are_said(tmp_path, caplog):
    load_npz(tmp_path, train_images=pixels(9, 6, 5, 3) % 2, test_images=pixels(4, 6, 5, 3) % 2)
    assert "no level of the images is above 1" in caplog.text


def directory_entry(content, name):
    """Where an archive's directory has the entry of a member."""
    at = content.rindex(b"PK\x01\x02" + content[content.rindex(name) - 42 : content.rindex(name)])
    assert content[at + 46 :].startswith(name)
    return at


@pytest.mark.parametrize(
    ("offset", "value", "part"),
    [
        (8, b"\x01\x00", "train_labels in {path} is encrypted: write it again with np.savez"),
        (10, b"\x0e\x00", "is damaged (train_labels is compressed in a way that numpy does not write)"),
        (10, b"\x0c\x00", "is damaged (train_labels is compressed in a way that numpy does not write)"),
        (20, b"\x00\x00\x00\x08" * 2, "sizes in the archive's directory that cannot be"),  # both sizes: 128 MiB
        (24, b"\x00\x00\x00\x08", "sizes in the archive's directory that cannot be"),
    ],
)
def test_an_archive_whose_directory_lies(tmp_path, offset, value, part):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays())
    content = bytearray(path.read_bytes())
    at = directory_entry(content, b"train_labels.npy") + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)
    refused(f"npz:{path}", part.format(path=path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("key", ["test_labels", "classes"])
def test_arrays_that_are_there_twice(tmp_path, key):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(classes=np.array(list("abc"))))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{key}.npy", archive.read(f"{key}.npy"))
    refused(f"npz:{path}", key, "mean the same" if key == "test_labels" else "is there twice")
