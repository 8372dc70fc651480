import hashlib
import io
import os
import pickle
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from jresnet import datasets, tfds_reader
from jresnet.datasets import Dataset, Split, load_dataset
from jresnet.errors import InputError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def arrays(**changes):
    """A valid file's arrays, with changes; None drops an array."""
    valid = {
        "train_images": pixels(9, 6, 5, 3),
        "train_labels": np.arange(9) % 3,
        "test_images": pixels(4, 6, 5, 3),
        "test_labels": np.array([2, 0, 1, 1]),
    }
    return {key: value for key, value in (valid | changes).items() if value is not None}


def load_npz(folder, **changes):
    np.savez(folder / "data.npz", **arrays(**changes))
    return load_dataset(f"npz:{folder / 'data.npz'}")


def made(labels, test=5, seed=0, **changes):
    """A data set whose images carry their index in the first pixel."""
    labels = np.asarray(labels, np.int32)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    empty = Split(images[:0], labels[:0])
    parts = {"train": Split(images, labels), "validation": empty, "test": Split(images[:test], labels[:test])}
    return Dataset(name="made", classes=tuple(map(str, range(labels.max() + 1))), **(parts | changes))


def indices(split):
    return split.images[:, 0, 0, 0] + 256 * split.images[:, 0, 0, 1].astype(int)


def refused(name, *parts, data_dir=None):
    """Loading fails with one line that holds every part."""
    with pytest.raises(InputError) as caught:
        load_dataset(str(name), data_dir)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# npz


def test_npz_gives_the_arrays_as_stored(tmp_path):
    stored = arrays(val_images=pixels(2, 6, 5, 3), val_labels=np.array([[1], [0]], np.uint8))
    np.savez_compressed(tmp_path / "data.npz", **stored)
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}")
    for split, prefix in ((dataset.train, "train"), (dataset.validation, "val"), (dataset.test, "test")):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert np.array_equal(split.images, stored[f"{prefix}_images"])
        assert np.array_equal(split.labels, stored[f"{prefix}_labels"].ravel())
    assert dataset.image_size == (6, 5)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.name == f"npz:{tmp_path / 'data.npz'}"
    assert len(dataset.validation) == 2


@pytest.mark.parametrize("channels", [(), (1,)])
def test_npz_gray_is_repeated(tmp_path, channels):
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
        ["lacks train_labels, test_images", "has test_labels, train_images"],
    ),
    "half validation": (dict(val_images=pixels(2, 6, 5, 3)), ["lacks val_labels"]),
    "pickled images": (dict(train_images=np.array([None] * 9)), ["train_images", "pickled", "save it again"]),
    "pickled labels": (dict(test_labels=np.array([1, "a", None, 2], object)), ["test_labels", "pickled"]),
    "float images": (dict(train_images=np.zeros((9, 6, 5, 3))), ["float64", "uint8"]),
    "flat images": (dict(train_images=pixels(9, 90)), ["(9, 90)"]),
    "two channels": (dict(test_images=pixels(4, 6, 5, 2)), ["(4, 6, 5, 2)"]),
    "channels first": (dict(train_images=pixels(9, 3, 6, 5)), ["(9, 3, 6, 5)"]),
    "volumes": (dict(train_images=pixels(9, 6, 5, 4, 3)), ["(9, 6, 5, 4, 3)"]),
    "no pixels": (dict(train_images=pixels(9, 0, 5, 3)), ["(9, 0, 5, 3)"]),
    "test size": (dict(test_images=pixels(4, 5, 6, 3)), ["test images are 5 x 6", "images 6 x 5", "resize"]),
    "lengths": (dict(test_labels=np.arange(3)), ["4", "3", "one label per image"]),
    "no images": (dict(test_images=pixels(0, 6, 5, 3), test_labels=np.zeros(0, int)), ["there are none"]),
    "negative": (dict(train_labels=np.arange(9) % 3 - 1), ["-1", "from 0"]),
    "gap": (dict(train_labels=np.arange(9) % 3 * 2), ["2 of 5 classes", "(1, 3)"]),
    "huge gap": (dict(train_labels=np.array([0, 2**31 - 1] * 4 + [1])), ["2147483645 of 21474836", ", ..."]),
    "beyond int32": (dict(train_labels=np.array([0, 2**40] * 4 + [1])), [str(2**40)]),
    "unseen": (dict(test_labels=np.array([0, 1, 2, 3])), ["test_labels reach 3", "only 2"]),
    "multi-label": (dict(train_labels=np.zeros((9, 14), int)), ["(9, 14)"]),
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


def test_pickles_are_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (9,)})
    np.savez(tmp_path / "data.npz", **arrays(train_images=None))
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("train_images.npy", buffer.getvalue() + pickle.dumps(Bomb()))
    refused(f"npz:{tmp_path / 'data.npz'}", "train_images", "pickled")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb()))
    refused(f"npz:{tmp_path / 'bare.npz'}", "not an .npz file")
    assert not (tmp_path / "executed").exists()


def test_file_that_is_no_npz(tmp_path):
    refused(f"npz:{tmp_path / 'none.npz'}", "no file", tmp_path / "none.npz")
    refused(f"npz:{tmp_path}", "no file", tmp_path)
    np.save(tmp_path / "one.npy", pixels(3, 3))
    refused(f"npz:{tmp_path / 'one.npy'}", "not an .npz file", tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(f"npz:{tmp_path / 'text.npz'}", "lacks train_images", "nothing")


def test_relative_path_is_shown_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("npz:none.npz", tmp_path / "none.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz(tmp_path, save):
    """Damage is refused or, in bytes that carry nothing, harmless: it never gives other data."""
    file = tmp_path / "data.npz"
    save(file, **arrays())
    whole, sha256 = file.read_bytes(), load_dataset(f"npz:{file}").sha256
    for end in (0, 10, len(whole) // 2, len(whole) - 30):
        file.write_bytes(whole[:end])
        refused(f"npz:{file}", file, "truncated")
    refusals = 0
    for position in range(0, len(whole), 61):
        damage = bytes(byte ^ 0xFF for byte in whole[position : position + 8])
        file.write_bytes(whole[:position] + damage + whole[position + 8 :])
        try:
            assert load_dataset(f"npz:{file}").sha256 == sha256
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > len(whole) / 61 / 2


def test_header_that_promises_too_much(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32, 3)})
    np.savez(tmp_path / "data.npz", **arrays(train_images=None))
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("train_images.npy", buffer.getvalue() + b"short")
    refused(f"npz:{tmp_path / 'data.npz'}", "train_images is shorter than its header says")


# folder


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return image


@pytest.fixture
def folder(tmp_path):
    """Two classes with a mix of formats; returns the directory and the expected training images."""
    expected = [
        write(tmp_path / "train/cat/a.png", pixels(6, 5, 3)),
        write(tmp_path / "train/cat/b.BMP", pixels(6, 5, 3)),
        write(tmp_path / "train/dog/1.png", pixels(6, 5)),
        write(tmp_path / "train/dog/2.webp", pixels(6, 5, 3), lossless=True),
    ]
    write(tmp_path / "test/dog/x.png", pixels(6, 5, 4))
    (tmp_path / "train/cat/.hidden.png").write_bytes(b"no image")
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/readme.png.md").write_text("no image")
    return tmp_path, expected


def test_folder(folder):
    root, expected = folder
    dataset = load_dataset(f"folder:{root}")
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1] and dataset.test.labels.tolist() == [1]
    assert dataset.train.labels.dtype == np.int32
    for image, original in zip(dataset.train.images, expected, strict=True):
        assert np.array_equal(image, original if original.ndim == 3 else np.stack([original] * 3, -1))
    assert len(dataset.validation) == 0


def test_folder_is_read_in_order_of_names(tmp_path):
    """However the file system lists them: one class is written upwards, one downwards."""
    for value in (*range(0, 30, 2), *range(29, 0, -2)):
        write(tmp_path / f"train/class {value % 2}/{value:02}.png", np.full((2, 2, 3), value, np.uint8))
        write(tmp_path / f"test/class {value % 2}/{value:02}.png", np.full((2, 2, 3), value, np.uint8))
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.train.images[:, 0, 0, 0].tolist() == [*range(0, 30, 2), *range(1, 30, 2)]


def test_folder_validation_and_lossy_formats(folder):
    root, _ = folder
    flat = np.full((6, 5, 3), 100, np.uint8)
    write(root / "validation/cat/a.jpg", flat)
    write(root / "validation/cat/b.jpeg", flat)
    write(root / "validation/dog/c.gif", flat)
    dataset = load_dataset(f"folder:{root}")
    assert dataset.validation.labels.tolist() == [0, 0, 1]
    assert (abs(dataset.validation.images.astype(int) - 100) <= 2).all()


def test_folder_that_is_missing(tmp_path):
    refused(f"folder:{tmp_path / 'none'}", "no directory", tmp_path / "none")
    (tmp_path / "train").mkdir()
    refused(f"folder:{tmp_path}", "no directory", tmp_path / "test")
    (tmp_path / "test").mkdir()
    refused(f"folder:{tmp_path}", "no images", tmp_path / "train")


def test_folder_with_bad_images(folder):
    root, _ = folder
    broken = root / "train/dog/3.png"
    for content in (b"", b"no image", (root / "train/dog/1.png").read_bytes()[:60]):
        broken.write_bytes(content)
        refused(f"folder:{root}", broken, "cannot be read")
    write(broken, pixels(7, 5, 3))
    refused(f"folder:{root}", broken, root / "train/cat/a.png", "7 x 5", "6 x 5", "resize")
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(broken)
    refused(f"folder:{root}", broken, "8 bits")


def test_folder_with_bad_classes(folder):
    root, _ = folder
    (root / "test/bird").mkdir()
    refused(f"folder:{root}", root / "test", "bird", "train lacks")
    (root / "train/bird").mkdir()
    refused(f"folder:{root}", "1 of 3 classes", "(bird)")


def test_folder_test_size_differs(folder):
    root, _ = folder
    write(root / "test/dog/x.png", pixels(8, 8, 3))
    refused(f"folder:{root}", "test images are 8 x 8", "train images 6 x 5")


# TFDS


def store(root, name, splits, image_shape=(6, 5, 3), names=("plane", "car", "bird"), **features):
    """Write a prepared TFDS data set; splits: name -> (images, labels)."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = features or {
        "image": tfds.features.Image(shape=image_shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=names),
    }

    def dataset(images, labels):
        def examples():
            for image, label in zip(images, labels, strict=True):
                yield {"image": image, "label": label}

        signature = {
            "image": tf.TensorSpec(image_shape, features["image"].np_dtype),
            "label": tf.TensorSpec((), features["label"].np_dtype),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name, version="3.0.2", features=tfds.features.FeaturesDict(features), data_dir=str(root),
        split_datasets={split: dataset(*pair) for split, pair in splits.items()}, disable_shuffling=True,
    )  # fmt: skip


def test_tfds_reads_prepared_data_in_stored_order(tmp_path, monkeypatch):
    train, labels = pixels(2300, 32, 32, 3), np.arange(2300) % 3
    test = pixels(4, 32, 32, 3)
    splits = {"train": (train, labels), "test": (test, labels[:4])}
    store(tmp_path, "cifar10", splits, image_shape=(32, 32, 3))
    monkeypatch.setattr(tfds_reader, "_answers", lambda host: pytest.fail("no need of the network"))
    dataset = load_dataset("cifar10", str(tmp_path))
    assert np.array_equal(dataset.train.images, train) and np.array_equal(dataset.train.labels, labels)
    assert np.array_equal(dataset.test.images, test)
    assert dataset.train.labels.dtype == np.int32
    assert dataset.classes == ("plane", "car", "bird") and len(dataset.validation) == 0
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load_dataset("cifar10").sha256 == dataset.sha256


def test_tfds_gray_validation_and_unregistered_name(tmp_path):
    image, label = pixels(6, 6, 5, 1), np.arange(6) % 3
    store(tmp_path, "my_own", {s: (image, label) for s in ("train", "validation", "test")}, (6, 5, 1))
    dataset = load_dataset("my_own", str(tmp_path))
    assert len(dataset.validation) == 6
    assert np.array_equal(dataset.train.images, np.repeat(image, 3, axis=3))


def test_tfds_images_of_unstated_size(tmp_path):
    images, labels = [pixels(6, 5, 3) for _ in range(3)], np.arange(3)
    store(tmp_path, "equal", {"train": (images, labels), "test": (images, labels)}, (None, None, 3))
    assert np.array_equal(load_dataset("equal", str(tmp_path)).train.images, np.stack(images))
    images[2] = pixels(7, 5, 3)
    store(tmp_path, "unequal", {"train": (images, labels), "test": (images, labels)}, (None, None, 3))
    refused("unequal", "train images differ in size", "6 x 5", "7 x 5", data_dir=str(tmp_path))


def test_tfds_that_is_no_classification_or_lacks_a_split_or_is_damaged(tmp_path):
    import tensorflow_datasets as tfds

    pair = (pixels(3, 6, 5, 3), np.arange(3))
    image = tfds.features.Image(shape=(6, 5, 3))
    store(tmp_path, "scores", {"train": pair, "test": pair}, image=image, label=tfds.features.Scalar(np.int64))
    refused("scores", "class label", data_dir=str(tmp_path))
    store(tmp_path, "no_test", {"train": pair})
    refused("no_test", "splits are train", data_dir=str(tmp_path))
    store(tmp_path, "damaged", {"train": pair, "test": pair})
    next((tmp_path / "damaged").rglob("*train.tfrecord*")).write_bytes(b"damaged for a test")
    refused("damaged", tmp_path / "damaged", "is damaged", data_dir=str(tmp_path))


def test_tfds_not_prepared_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_reader, "_answers", lambda host: False)
    remedies = (
        "--data-dir",
        "TFDS_DATA_DIR",
        "connect to the network",
        "npz:FILE",
        "folder:DIR",
        "synthetic",
    )
    start = time.monotonic()
    refused("cifar100", tmp_path / "none", "cs.toronto.edu", *remedies, data_dir=str(tmp_path / "none"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    refused("mnist", tmp_path / "other", *remedies)
    assert time.monotonic() - start < 5
    assert not list(tmp_path.iterdir())


def test_network_probe_is_bounded_and_needs_one_answer(monkeypatch):
    def answers(host):
        time.sleep({"slow": 30, "down": 0, "up": 0.05}[host])
        return host == "up"

    monkeypatch.setattr(tfds_reader, "_answers", answers)
    monkeypatch.setattr(tfds_reader, "_PROBE_SECONDS", 0.5)
    start = time.monotonic()
    assert tfds_reader._any_answers(["slow", "down", "up"])
    assert not tfds_reader._any_answers(["down", "down"])
    assert time.monotonic() - start < 0.5
    assert not tfds_reader._any_answers(["slow"])
    assert time.monotonic() - start < 2


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self):
        raise OSError("disk full\nand more")

    monkeypatch.setattr(tfds_reader, "_answers", lambda host: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    refused("cifar100", "disk full", tmp_path, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["cifar11", "CIFAR10", "", "a b\nc", "npz", "huggingface:mnist", "data/x.npz"])
def test_unknown_name(name, monkeypatch):
    monkeypatch.setattr(tfds_reader, "_answers", lambda host: pytest.fail("asked the network"))
    start = time.monotonic()
    message = refused(name, repr(name), "no such data set", "npz:FILE", "folder:DIR", "synthetic")
    assert time.monotonic() - start < 5
    assert ("cifar10" in message) == name.lower().startswith("cifar")


@pytest.mark.parametrize("name", ["emnist/lettrs", "cifar10:9.9.9"])
def test_unknown_config_or_version(name, tmp_path):
    refused(name, name, "npz:FILE", data_dir=str(tmp_path))


WITHOUT = """
import sys
for module in {modules}: sys.modules[module] = None
import numpy as np
from jresnet.datasets import load_dataset
from jresnet.errors import InputError
from PIL import Image
assert len(load_dataset("synthetic").train) and len(load_dataset("npz:data.npz").train)
assert len(load_dataset("folder:" + ".").train)
try: load_dataset("cifar10", ".")
except InputError as error: print(error)
"""


def test_other_sources_work_without_tfds_and_tensorflow(folder):
    root, _ = folder
    np.savez(root / "data.npz", **arrays())
    path = os.path.dirname(os.path.dirname(datasets.__file__))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(modules=["tensorflow_datasets", "tensorflow"])],
        cwd=root, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and run.stderr == ""
    assert "pip install tensorflow-datasets" in run.stdout and "npz:FILE" in run.stdout
    assert run.stdout.count("\n") == 1


def test_import_loads_no_heavy_module():
    heavy = {"tensorflow", "tensorflow_datasets", "torch", "PIL", "matplotlib", "tyro", "tensorboardX"}
    code = f"import sys, jresnet; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Dataset


def test_synthetic():
    dataset = load_dataset("synthetic")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4000, 0, 1000)
    assert dataset.image_size == (32, 32) and len(dataset.classes) == 10
    assert dataset.sha256 == load_dataset("synthetic").sha256


def test_sha256_covers_every_split_its_labels_and_shapes():
    base = made([0, 1, 2, 0, 1, 2])
    assert base.sha256 == made([0, 1, 2, 0, 1, 2]).sha256
    expected = hashlib.sha256()
    for split in (base.train, base.validation, base.test):
        expected.update(
            str(split.images.shape).encode() + split.images.tobytes() + split.labels.astype("<i4").tobytes()
        )
    assert base.sha256 == expected.hexdigest()

    other = base.train.images.copy()
    other[3, 2, 1, 0] ^= 1
    changed = [
        made([0, 1, 2, 0, 2, 1]),
        made([0, 1, 2, 0, 1, 2], train=Split(other, base.train.labels)),
        made([0, 1, 2, 0, 1, 2], test=4),
        made([0, 1, 2, 0, 1, 2], train=Split(base.train.images.reshape(6, 2, 8, 3), base.train.labels)),
        base.hold_out(3, 0),
    ]
    assert len({base.sha256, *(dataset.sha256 for dataset in changed)}) == 6


def test_hold_out_is_stratified_disjoint_and_keeps_the_order():
    dataset = made(np.random.default_rng(1).permutation(np.repeat([0, 1, 2, 3], [100, 60, 30, 10])))
    split = dataset.hold_out(40, seed=3)
    assert np.bincount(split.validation.labels).tolist() == [20, 12, 6, 2]
    kept, held = indices(split.train), indices(split.validation)
    assert (np.diff(kept) > 0).all()
    assert sorted([*kept, *held]) == list(range(200))
    for part in (split.train, split.validation):
        assert np.array_equal(part.labels, dataset.train.labels[indices(part)])
    assert split.test is dataset.test and split.classes == dataset.classes


def test_hold_out_depends_on_the_seed_alone():
    dataset = made(np.arange(200) % 4)
    first, again, other = (indices(dataset.hold_out(20, seed).validation) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(set(first // 10)) > 8


@pytest.mark.parametrize(
    ("counts", "n", "shares"),
    [
        ([50, 30, 20], 11, [6, 3, 2]),  # quotas 5.5, 3.3, 2.2
        ([7, 7, 7], 2, [1, 1, 0]),  # equal remainders: the first classes
        ([60, 25, 15], 9, [6, 2, 1]),  # quotas 5.4, 2.25, 1.35
    ],
)
def test_hold_out_rounds_by_largest_remainder(counts, n, shares):
    split = made(np.repeat(np.arange(3), counts)).hold_out(n, 0)
    assert np.bincount(split.validation.labels, minlength=3).tolist() == shares


def test_hold_out_nothing_is_the_same_data_set():
    dataset = made([0, 1])
    assert dataset.hold_out(0, 5) is dataset


@pytest.mark.parametrize(("n", "part"), [(6, "below 6"), (7, "below 6"), (-1, "below 6"), (5, "class 1")])
def test_hold_out_too_many(n, part):
    with pytest.raises(InputError, match=rf"^--validation {n}: [^\n]*{part}"):
        made([0, 0, 0, 1, 1, 2]).hold_out(n, 0)


def test_hold_out_from_a_data_set_with_validation():
    dataset = made(np.arange(20) % 2).hold_out(4, 0)
    with pytest.raises(InputError, match="4 validation images of its own"):
        dataset.hold_out(2, 0)


def test_channel_statistics_are_those_of_all_pixels_together():
    images = pixels(2500, 3, 4, 3) // np.array([1, 2, 4], np.uint8) + np.array([0, 9, 50], np.uint8)
    images[:7] = 255
    dataset = made(np.arange(2500) % 2, train=Split(images, np.arange(2500) % 2))
    mean, std = dataset.channel_statistics()
    scaled = images.astype(np.float64) / 255
    assert mean == tuple(np.round(scaled.mean(axis=(0, 1, 2)), 4))
    assert std == tuple(np.round(scaled.std(axis=(0, 1, 2)), 4))
    assert all(type(value) is float for value in mean + std)


def test_channel_statistics_of_a_constant_channel():
    images = pixels(10, 3, 4, 3)
    images[..., 1] = 51
    mean, std = made([0, 1] * 5, train=Split(images, np.arange(10) % 2)).channel_statistics()
    assert mean[1] == 0.2 and std[1] == 1.0 and 0.2 < std[0] < 0.4


def test_channel_statistics_do_not_overflow():
    """A chunk of white images of 64 x 64 sums to more than 2**32."""
    white = np.full((1100, 64, 64, 3), 255, np.uint8)
    white[0] = 254
    mean, std = made([0, 1], train=Split(white, np.zeros(1100, np.int32))).channel_statistics()
    assert mean == (1.0, 1.0, 1.0) and std == (0.0001,) * 3
