"""Shared by tests of whole programs: a tiny data set and experiment, snapshots of directories, an unprivileged user."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest

from jresnet.data.datasets import Dataset, Split
from jresnet.records import run_directory
from jresnet.records.epoch import METRICS
from jresnet.records.files import write_bytes
from jresnet.records.lock import hold
from jresnet.train.loop import describe

# Compiles in seconds, trains in hundredths: feature maps of 4 x 4, three steps per epoch, the last one smaller.
TINY = [
    *("--dataset", "npz:tiny.npz", "--width", "2", "--blocks", "1", "1", "--pool-size", "4"),
    *("--batch-size", "16", "--learning-rate", "0.05", "--epochs", "2"),
]


def tiny_npz(path, **changes):
    """Three classes of 8x8 images, distinguished by which third is bright; returns the path."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 36), ("test", 15)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 120, (count, 8, 8, 3), np.uint8)
        for label in range(3):
            images[labels == label, :, 2 * label : 2 * label + 3] += np.uint8(110)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


def tree(directory):
    """Every path below a directory, with the content of the files."""
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in sorted(pathlib.Path(directory).rglob("*"))
    }


@contextlib.contextmanager
def unprivileged():
    """A temporary directory that every user may enter."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="jresnet-test-"))
    try:
        home.chmod(0o755)
        yield home
    finally:
        shutil.rmtree(home)


@contextlib.contextmanager
def as_nobody():
    """Run as the user nobody if the user is root, whom no permissions restrict."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root without permissions to be refused, and unable to become another user")
    try:
        yield
    finally:
        os.seteuid(0)


def five_classes(train=60, test=10, validation=0):
    """Noise of 32 x 32 with labels, large enough for the report's networks."""

    def split(images, seed):
        labels = (np.arange(images) % 5).astype(np.int32)
        return Split(np.random.default_rng(seed).integers(0, 256, (images, 32, 32, 3), np.uint8), labels)

    return Dataset("made", split(train, 0), split(validation, 1), split(test, 2), tuple("abcde"))


class FakeFit:
    """Replaces `loop.fit`: writes the records of a run without training.

    Attributes:
      accuracy: (config, seed) -> the accuracy on every split; tests set it, and it may raise.
      made: (config, seed) of every run.
    """

    def __init__(self):
        self.made = []
        self.accuracy = lambda config, seed: 0.5

    def __call__(self, config, dataset, workdir, *, seed, experiment, keep, console):
        held_out = dataset.hold_out(config.validation, seed)
        run = describe(config, held_out, dataset.sha256, seed, experiment)
        with hold(workdir):
            self.write(workdir, run)
        self.made.append((config, seed))

    def write(self, workdir, run):
        config, seed = run.config, run.seed
        run_directory.create(workdir, run)
        accuracy = self.accuracy(config, seed)
        figures = {"train_loss": 1.0, "train_accuracy": accuracy}
        figures |= {"validation_accuracy": accuracy, "validation_loss": 1.0 - accuracy}
        speed = {"images_per_second": 10.0, "seconds": 2.0}
        lines = [{"epoch": epoch, **figures, "learning_rate": 0.1, **speed} for epoch in range(config.epochs)]
        if run.dataset["test"] and config.test_after != "never":
            test = {"test_accuracy": accuracy, "test_loss": 1.0 - accuracy}
            figures |= test
            for line in lines if config.test_after == "epochs" else lines[-1:]:
                line |= test
        write_bytes(workdir / METRICS, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        record = {name: run.to_json()[name] for name in ("experiment", "config", "seed", "dataset")} | figures
        record |= {"device": "none", "versions": {}, "commit": None, "parameters": 1, "epochs": config.epochs}
        record |= {"seconds": 2.0 * config.epochs, "compile_seconds": 1.0, "images_per_second": 10.0}
        record |= {"compile_cache": "cold", "resumed": False}
        run_directory.finish(workdir, json.loads(json.dumps(record)), lines)
