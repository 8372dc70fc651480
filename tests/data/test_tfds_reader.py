"""The TFDS reader: prepared data in stored order, the cache of decoded arrays, refusals of one line."""

import http.server
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jresnet.data import tfds_reader
from jresnet.data.checks import used_classes
from jresnet.data.contents import Contents
from jresnet.data.datasets import load_dataset
from jresnet.errors import InputError
from tests.support.datasets import pixels, refused

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def no_probe(monkeypatch):
    """Fail if the network is probed."""
    monkeypatch.setattr(tfds_reader, "_any_answers", lambda hosts: pytest.fail("probed the network"))


def prepare(root, name, splits, image_shape=(6, 5, 3), names=("plane", "car", "bird"), **features):
    """Prepare a data set as TFDS stores it; `splits` maps names to (images, labels)."""
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


def test_prepared_data_are_read_in_stored_order(tmp_path, monkeypatch, no_probe):
    train, labels = pixels(1100, 32, 32, 3), np.arange(1100) % 3  # more than one batch of the reader
    test = pixels(4, 32, 32, 3)
    splits = {"train": (train, labels), "test": (test, labels[:4])}
    prepare(tmp_path, "cifar10", splits, image_shape=(32, 32, 3))
    with monkeypatch.context() as short:
        short.setattr("jresnet.data.memory.available", lambda: 2 * train.nbytes - 1)
        words = "1,100 train images of 32 x 32 need 6.8 MB of memory, and 6.8 MB are available"
        refused("cifar10", words, data_dir=str(tmp_path))
    dataset = load_dataset("cifar10", str(tmp_path))
    assert np.array_equal(dataset.train.images, train) and np.array_equal(dataset.train.labels, labels)
    assert np.array_equal(dataset.test.images, test)
    assert dataset.train.labels.dtype == np.int32
    assert dataset.classes == ("plane", "car", "bird") and len(dataset.validation) == 0
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load_dataset("cifar10").sha256 == dataset.sha256


READ = """
import sys, jresnet
print(jresnet.load_dataset("mine", sys.argv[1]).sha256, "tensorflow" in sys.modules)
"""


def test_decoded_arrays_are_cached_until_the_prepared_files_change(tmp_path, monkeypatch):
    calls, decode = [], tfds_reader._decode
    monkeypatch.setattr(tfds_reader, "_decode", lambda *arguments: calls.append(arguments) or decode(*arguments))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))

    def read():
        calls.clear()
        return load_dataset("mine", str(tmp_path)).sha256, len(calls)

    images, labels = pixels(6, 6, 5, 3), np.arange(6) % 3
    prepare(tmp_path, "mine", dict.fromkeys(("train", "validation", "test"), (images, labels)))
    sha256, decoded = read()
    assert decoded == 1 and read() == (sha256, 0)
    # A process that reads from the cache does not import TensorFlow.
    words = [sys.executable, "-c", READ, tmp_path]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [sha256, "False"]
    (cached,) = (tmp_path / "user" / "jresnet" / "datasets").glob("*.npz")
    intact = cached.read_bytes()
    middle = len(intact) // 2
    for damaged in (intact[:-9], intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]):
        cached.write_bytes(damaged)
        assert read() == (sha256, 1) and cached.read_bytes() == intact
    shutil.rmtree(tmp_path / "mine")
    prepare(tmp_path, "mine", dict.fromkeys(("train", "validation", "test"), (images[::-1], labels)))
    changed, decoded = read()
    assert changed != sha256 and decoded == 1


def test_an_unusable_cache_is_ignored(tmp_path, monkeypatch):
    prepare(tmp_path, "mine", dict.fromkeys(("train", "test"), (pixels(6, 6, 5, 3), np.arange(6) % 3)))
    expected = load_dataset("mine", str(tmp_path)).sha256
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_dataset("mine", str(tmp_path)).sha256 == expected


def test_grayscale_validation_split_and_unregistered_name(tmp_path):
    image, label = pixels(6, 6, 5, 1), np.arange(6) % 3
    prepare(tmp_path, "my_own", {s: (image, label) for s in ("train", "validation", "test")}, (6, 5, 1))
    dataset = load_dataset("my_own", str(tmp_path))
    assert len(dataset.validation) == 6
    assert np.array_equal(dataset.train.images, np.repeat(image, 3, axis=3))


def test_images_of_unspecified_size(tmp_path):
    images, labels = [pixels(6, 5, 3) for _ in range(3)], np.arange(3)
    prepare(tmp_path, "equal", {"train": (images, labels), "test": (images, labels)}, (None, None, 3))
    assert np.array_equal(load_dataset("equal", str(tmp_path)).train.images, np.stack(images))
    images[2] = pixels(7, 5, 3)
    prepare(tmp_path, "unequal", {"train": (images, labels), "test": (images, labels)}, (None, None, 3))
    refused("unequal", "train images differ in size", "6 x 5", "7 x 5", "--image-size H W", data_dir=str(tmp_path))


def test_images_of_different_sizes_are_resized_and_cached_by_size(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    images, labels = [np.full((side, 9, 1), 10 * side, np.uint8) for side in (6, 7, 8)], np.arange(3)
    prepare(tmp_path, "unequal", {"train": (images, labels), "test": (images, labels)}, (None, None, 1))
    for size in ((4, 5), (8, 9)):
        for resize in ("stretch", "pad"):
            for _ in range(2):  # decoded, and from the cache
                options = dict(image_size=size, resize=resize, background=(0, 0, 0))
                dataset = load_dataset("unequal", str(tmp_path), **options)
                assert dataset.image_size == size and dataset.train.images[:, 2, 2, :].tolist() == [
                    [60] * 3, [70] * 3, [80] * 3,
                ]  # fmt: skip
                dark = (dataset.train.images == 0).any()
                assert dark == (resize == "pad")
    assert len(list((tmp_path / "user").rglob("*.npz"))) == 4


def test_other_features_missing_splits_and_damaged_files_are_refused(tmp_path):
    import tensorflow_datasets as tfds

    pair = (pixels(3, 6, 5, 3), np.arange(3))
    image = tfds.features.Image(shape=(6, 5, 3))
    prepare(tmp_path, "scores", {"train": pair, "test": pair}, image=image, label=tfds.features.Scalar(np.int64))
    refused("scores", "class label", data_dir=str(tmp_path))
    prepare(tmp_path, "no_train", {"test": pair})
    refused("no_train", "splits are test, but train is needed", data_dir=str(tmp_path))
    prepare(tmp_path, "damaged", {"train": pair, "test": pair})
    next((tmp_path / "damaged").rglob("*train.tfrecord*")).write_bytes(b"damaged for a test")
    refused("damaged", tmp_path / "damaged", "is damaged", data_dir=str(tmp_path))


def test_data_without_test_images_are_asked_for_what_to_test_on(tmp_path):
    train, validation = (pixels(9, 6, 5, 3), np.arange(9) % 3), (pixels(3, 6, 5, 3), np.arange(3))
    prepare(tmp_path, "both", {"train": train, "validation": validation})
    refused("both", "only train and validation", "--test-from validation", "--holdout-test N", data_dir=str(tmp_path))
    dataset = load_dataset("both", str(tmp_path), test_from="validation")
    assert np.array_equal(dataset.test.images, validation[0]) and len(dataset.validation) == 0


def test_classes_without_training_images_are_left_out(tmp_path, caplog):
    names = ("unused", "plane", "never", "car", "bird", "last")
    train, test = (pixels(6, 6, 5, 3), np.array([4, 1, 3, 1, 4, 3])), (pixels(2, 6, 5, 3), np.array([3, 1]))
    prepare(tmp_path, "some", {"train": train, "test": test}, names=names)
    dataset = load_dataset("some", str(tmp_path))
    assert dataset.classes == ("plane", "car", "bird")
    assert dataset.train.labels.tolist() == [2, 0, 1, 0, 2, 1] and dataset.test.labels.tolist() == [1, 0]
    assert "3 of 6 classes have no training image and are left out (unused, never, last)" in caplog.text
    unseen = {"train": train, "test": (test[0], np.array([5, 1]))}
    with pytest.raises(InputError, match="1 of its test images are of classes without training images, such as last"):
        used_classes(Contents(unseen, names), "unseen")


def test_not_prepared_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_reader, "_any_answers", lambda hosts: False)
    remedies = ("--data-dir", "TFDS_DATA_DIR", "connect to the network", "npz:FILE", "folder:DIR", "synthetic")
    archive = "put cifar-100-python.tar.gz, or cifar-100-python, to which it unpacks, into"
    refused("cifar100", tmp_path / "none", "cs.toronto.edu", *remedies, archive, data_dir=str(tmp_path / "none"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    refused("mnist", tmp_path / "other", *remedies)
    assert not list(tmp_path.iterdir())


class NotFound(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_the_network_probe_needs_one_answer_in_time(monkeypatch):
    monkeypatch.setattr(tfds_reader, "_PROBE_SECONDS", 0.5)
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        up, slow = (f"http://127.0.0.1:{port}/" for port in (server.server_port, silent.getsockname()[1]))
        down = "http://127.0.0.1:1/"
        start = time.monotonic()
        assert tfds_reader._any_answers([down, up])
        assert not tfds_reader._any_answers([down, down])
        assert time.monotonic() - start < 0.5
        assert not tfds_reader._any_answers([slow])
        assert time.monotonic() - start < 2
        server.shutdown()


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self):
        raise OSError("disk full\nand more")

    monkeypatch.setattr(tfds_reader, "_any_answers", lambda hosts: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    refused("cifar100", "disk full", tmp_path, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["cifar11", "CIFAR10", "", "a b\nc", "npz", "huggingface:mnist", "data/x.npz", "../x"])
def test_unknown_name(name, no_probe):
    start = time.monotonic()
    message = refused(name, repr(name), "no such data set", "npz:FILE", "folder:DIR", "synthetic")
    assert time.monotonic() - start < 5
    assert ("cifar10" in message) == name.lower().startswith("cifar")


@pytest.mark.parametrize("name", ["emnist/lettrs", "cifar10:9.9.9"])
def test_unknown_config_or_version(name, tmp_path):
    refused(name, name, "npz:FILE", data_dir=str(tmp_path))
