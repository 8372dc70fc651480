"""Readers of image folders: valid data are read exactly, others refused in one line."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jresnet
from jresnet.data.datasets import load_dataset
from tests.support.datasets import arrays, pixels, refused

# folder


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return image


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes in various formats, and the expected training images."""
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


def test_folder_images_are_sorted_by_name(tmp_path):
    """Whatever the order of the file system: one class is written in ascending order, one in descending order."""
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
    refused(f"folder:{tmp_path / 'none'}", "no directory", tmp_path / "none", "train/<class>/")
    (tmp_path / "train").mkdir()
    refused(f"folder:{tmp_path}", "no directory", tmp_path / "test")
    (tmp_path / "test").mkdir()
    refused(f"folder:{tmp_path}", "no images", tmp_path / "train")


def test_folder_with_bad_images(folder):
    root, _ = folder
    broken = root / "train/dog/3.png"
    for content in (b"", b"no image", (root / "train/dog/1.png").read_bytes()[:60]):
        broken.write_bytes(content)
        refused(f"folder:{root}", broken, "cannot be read as an image", "repair or remove")
    write(broken, pixels(7, 5, 3))
    refused(f"folder:{root}", broken, root / "train/cat/a.png", "7 x 5", "6 x 5", "resize")
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(broken)
    refused(f"folder:{root}", broken, "8 bits")


def test_folder_with_bad_classes(folder):
    root, _ = folder
    (root / "test/bird").mkdir()
    refused(f"folder:{root}", root / "test", "bird", "train lacks", "remove them")
    (root / "train/bird").mkdir()
    refused(f"folder:{root}", "1 of 3 classes", "(bird)", "add some")


def test_folder_test_size_differs(folder):
    root, _ = folder
    write(root / "test/dog/x.png", pixels(8, 8, 3))
    refused(f"folder:{root}", "test images are 8 x 8", "train images 6 x 5")


# both


WITHOUT = """
import sys
for module in {modules}: sys.modules[module] = None
import numpy as np
from jresnet.data.datasets import load_dataset
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
    path = str(pathlib.Path(jresnet.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(modules=["tensorflow_datasets", "tensorflow"])],
        cwd=root, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and run.stderr == ""
    assert "pip install tensorflow-datasets" in run.stdout and "npz:FILE" in run.stdout
    assert run.stdout.count("\n") == 1
