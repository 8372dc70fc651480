"""Folders of images: what is there is read exactly, or named."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jresnet
from jresnet.data.datasets import load_dataset
from jresnet.data.images.resize import resized
from jresnet.errors import InputError
from tests.support.datasets import arrays, pixels
from tests.support.studies import as_nobody, unprivileged


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
        write(tmp_path / "train/dog/1", pixels(6, 5), format="PNG"),
        write(tmp_path / "train/dog/2.webp", pixels(6, 5, 3), lossless=True),
        write(tmp_path / "train/dog/3.Tif", pixels(6, 5, 3)),
        write(tmp_path / "train/dog/4.txt", pixels(6, 5, 3), format="PPM"),
    ]
    write(tmp_path / "test/dog/x.png", pixels(6, 5, 3))
    return tmp_path, expected


def load(root, **options):
    return load_dataset(f"folder:{root}", **options)


def refusal(root, *parts, **options):
    with pytest.raises(InputError) as caught:
        load(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message


def move(root, **places):
    for old, new in places.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


def test_folder(folder, caplog):
    root, expected = folder
    dataset = load(root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1, 1] and dataset.test.labels.tolist() == [1]
    assert dataset.train.labels.dtype == np.int32
    for image, original in zip(dataset.train.images, expected, strict=True):
        assert np.array_equal(image, original if original.ndim == 3 else np.stack([original] * 3, -1))
    assert len(dataset.validation) == 0 and dataset.skipped == () and caplog.messages == []
    assert dataset.test.names == ("test/dog/x.png",)
    assert dataset.train.names[:3] == ("train/cat/a.png", "train/cat/b.BMP", "train/dog/1")


def test_folder_images_are_sorted_by_name(tmp_path):
    """Whatever the order of the file system: one class is written in ascending order, one in descending order."""
    for value in (*range(0, 30, 2), *range(29, 0, -2)):
        write(tmp_path / f"train/class {value % 2}/{value:02}.png", np.full((2, 2, 3), value, np.uint8))
        write(tmp_path / f"test/class {value % 2}/{value:02}.png", np.full((2, 2, 3), value, np.uint8))
    assert load(tmp_path).train.images[:, 0, 0, 0].tolist() == [*range(0, 30, 2), *range(1, 30, 2)]


# What lies in a folder is read or named.


def test_hidden_files_and_those_of_systems_are_passed_over_and_counted(folder, caplog):
    root, _ = folder
    for name in (
        "train/cat/.hidden.png",
        "train/dog/Thumbs.db",
        ".DS_Store",
        "test/dog/desktop.ini",
        "train/._cat",
        "train/cat/a.png:Zone.Identifier",
    ):
        (root / name).write_bytes(b"no image")
    for name in ("train/.cache", "__MACOSX", "train/cat/@eaDir", "train/.ipynb_checkpoints"):
        (root / name).mkdir()
        write(root / name / "x.png", pixels(6, 5, 3))
    assert len(load(root).train) == 6
    assert caplog.messages == [f"{root}: passed over 10 hidden or system files"]


def test_lists_beside_the_classes_are_passed_over_and_named(folder, caplog):
    root, _ = folder
    for name in ("README.md", "train/labels.csv", "test/notes.txt"):
        (root / name).write_text("no image")
    (root / "annotations").mkdir()
    write(root / "preview.png", pixels(90, 5, 3))  # beside the splits, not beside the classes
    assert len(load(root).train) == 6
    (line,) = caplog.messages
    assert "5 files" in line and "README.md" in line and "annotations" in line


def test_everything_that_is_no_image_is_named_in_one_start(folder, caplog):
    root, _ = folder
    jpeg, gif = root / "train/cat/j.jpg", root / "test/cat/g.gif"
    write(jpeg, pixels(6, 5, 3))
    write(gif, pixels(6, 5))
    for path in (jpeg, gif):
        path.write_bytes(path.read_bytes()[:-1])
    (root / "train/cat/a.png").write_bytes((root / "train/cat/a.png").read_bytes()[:-6])
    (root / "train/dog/notes.jpg").write_text("no image")
    (root / "train/dog/empty.png").write_bytes(b"")
    (root / "train/dog/gone.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "train/dog/pipe.png")
    write(root / "train/beside.png", pixels(6, 5, 3))
    write(root / "test/dog/float.tif", np.full((6, 5), 200, np.float32))
    for number in range(4):
        (root / f"train/dog/z{number}.csv").write_text("1, 2")
    bad = [
        "test/cat/g.gif", "test/dog/float.tif", "train/beside.png", "train/cat/a.png", "train/cat/j.jpg",
        "train/dog/empty.png", "train/dog/gone.png", "train/dog/notes.jpg", "train/dog/pipe.png", "train/dog/z0.csv",
        "train/dog/z1.csv", "train/dog/z2.csv", "train/dog/z3.csv",
    ]  # fmt: skip
    message = refusal(root, "13 files", "repair, move or remove them", "--skip-unreadable", " and 3 more: ", *bad[:10])
    assert not any(name in message for name in bad[10:])
    for name, reason in (
        ("train/dog/empty.png", "it is empty"), ("train/dog/gone.png", "a link to nothing"),
        ("train/dog/pipe.png", "it is no file"), ("test/dog/float.tif", "its levels are floats from 200 to 200"),
        ("train/dog/notes.jpg", "it is no image of a known format"), ("train/beside.png", "it lies beside the folders"),
        ("train/cat/a.png", "the file ends early"),
    ):  # fmt: skip
        assert f"{root / name} ({reason}" in message
    assert caplog.messages == []
    dataset = load(root, skip_unreadable=True)
    assert dataset.skipped == tuple(bad)
    assert not {*bad} & {*dataset.train.names} and len(dataset.train.names) == len(dataset.train)
    assert dataset.train.labels.tolist() == [0, 1, 1, 1, 1] and dataset.test.labels.tolist() == [1]
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("13 files left out: ")


def test_files_whose_names_are_no_text_are_named(folder, caplog):
    root, _ = folder
    (root / os.fsdecode(b"train/cat/\xff\x1b[31m\n.png")).write_bytes(b"no image")
    refusal(root, "cannot be used (it is no image of a known format): repair, move or remove it")
    assert load(root, skip_unreadable=True).skipped == ("train/cat/\\udcff\\x1b[31m\n.png",)
    assert all(line.isprintable() for line in caplog.messages)


def test_the_rows_of_images_that_are_left_out_are_left_out(folder):
    root, expected = folder
    for number in range(3):
        (root / f"train/cat/{'0az'[number]}x.png").write_bytes(b"no image")
    data = (root / "train/dog/2.webp").read_bytes()
    (root / "train/dog/2.webp").write_bytes(data[:-20])  # its header is whole
    dataset = load(root, skip_unreadable=True)
    assert len(dataset.skipped) == 4 and "train/dog/2.webp" in dataset.skipped
    for image, original in zip(dataset.train.images, [*expected[:3], *expected[4:]], strict=True):
        assert np.array_equal(image, original if original.ndim == 3 else np.stack([original] * 3, -1))


@pytest.mark.parametrize("target", ["/nowhere", "owl"])
@pytest.mark.parametrize("name", ["train", "val", "test", "train/cat", "train/owl", "test/owl", "owl"])
def test_a_split_or_a_class_behind_a_link_to_nothing_is_never_left_out(folder, name, target):
    """An unmounted disk must not change the task."""
    root, _ = folder
    link = root / name
    if link.is_dir():
        link.rename(root.parent / f"{root.name}-moved")
    link.symlink_to(target)
    for skip in (False, True):
        message = refusal(
            root, f"{link} cannot be read (a link to nothing): restore or remove it", skip_unreadable=skip
        )
        assert "skip" not in message


def test_several_links_to_nothing_are_named_at_once(folder):
    root, _ = folder
    for number in range(12):
        (root / f"train/class{number:02}").symlink_to(root / "nowhere")
    message = refusal(root, "12 folders", f"{root}/train/class09 (a link to nothing) and 2 more", skip_unreadable=True)
    assert "class10" not in message


@pytest.mark.parametrize("name", ["val", "dev", "Validation"])
def test_a_file_in_the_place_of_a_split_is_refused(folder, name):
    """Where links are not kept, a file holds where one led."""
    root, _ = folder
    (root / name).write_text("../elsewhere/val")
    refusal(root, f"{root / name} is a file", "make it a folder")


def test_a_class_without_a_readable_training_image_is_refused(folder):
    root, _ = folder
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"no image")
    refusal(root, "2 files")
    refusal(root, "1 of 2 classes", "(cat)", "add some", skip_unreadable=True)
    for path in (root / "train/dog").iterdir():
        path.write_bytes(b"no image")
    (root / "test/dog/x.png").write_bytes(b"no image")
    refusal(root, "no images", skip_unreadable=True)


def test_pillows_warnings_name_files(folder, caplog, recwarn):
    root, _ = folder
    for name in ("e", "f"):
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05"
        write(root / f"train/cat/{name}.jpg", pixels(6, 5, 3), exif=exif)
    assert len(load(root).train) == 8
    assert caplog.messages and all("2 files (train/cat/e.jpg, train/cat/f.jpg)" in line for line in caplog.messages)
    assert not recwarn.list


def test_of_animations_the_first_picture_is_read_which_is_said(folder, caplog):
    root, _ = folder
    first, second = Image.new("RGB", (5, 6), "red"), Image.new("RGB", (5, 6), "blue")
    for number in range(4):
        first.save(root / f"train/cat/{number}.gif", save_all=True, append_images=[second])
    assert (load(root).train.images[:4] == (255, 0, 0)).all()
    (line,) = caplog.messages
    assert "4 files (train/cat/0.gif" in line
    assert line.endswith("): of several pictures, frames or pages the first is read")


# How people lay out splits and classes.


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("test", ["test", "TEST", "Testing"])
@pytest.mark.parametrize("validation", ["validation", "val", "Valid", "dev"])
def test_names_of_splits(tmp_path, train, test, validation):
    for number, split in enumerate((train, validation, test)):
        for name in ("a", "b"):
            write(tmp_path / split / name / "1.png", np.full((2, 2, 3), number, np.uint8))
    dataset = load(tmp_path)
    for number, part in enumerate((dataset.train, dataset.validation, dataset.test)):
        assert (part.images == number).all() and part.labels.tolist() == [0, 1]


@pytest.mark.parametrize(("one", "other"), [("val", "valid"), ("train", "Train"), ("test", "testing")])
def test_two_folders_of_one_split_are_refused(folder, one, other):
    root, _ = folder
    for name in (one, other):
        (root / name).mkdir(exist_ok=True)
    refusal(root, "has both", one, other, "keep one of them")


def test_without_test_images(folder):
    root, _ = folder
    move(root, test="val")
    refusal(root, "no test images", "--test-from validation", "--holdout-test N")
    assert load(root, test_from="validation").test.labels.tolist() == [1]
    dataset = load(root, holdout_test=2)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4, 1, 2)


def test_test_images_without_classes_have_no_labels(folder, caplog):
    root, _ = folder
    (root / "test/dog/x.png").rename(root / "test/x.png")
    (root / "test/dog").rmdir()
    for inner in ("", "images"):
        if inner:
            move(root, **{"test/x.png": f"test/{inner}/x.png"})
        caplog.clear()
        refusal(root, root / "test" / inner, "no labels", "--test-from validation", "--holdout-test N")
        assert len(load(root, holdout_test=2).test) == 2
        assert len(caplog.messages) == 1 and "no labels" in caplog.messages[0]
    move(root, test="val")
    refusal(root, root / "val", "cat, dog", "sort them into")


def test_classes_without_splits_are_training_images(folder, caplog):
    root, expected = folder
    (root / "test/dog/x.png").unlink()
    for name in ("test/dog", "test"):
        (root / name).rmdir()
    move(root, **{"train/cat": "cat", "train/dog": "dog"})
    (root / "train").rmdir()
    refusal(root, "has no train", "cat, dog", "--holdout-test N")
    dataset = load(root, holdout_test=2)
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (4, 2, ("cat", "dog"))
    assert "taken as the classes" in caplog.messages[0]
    write(root / "preview.png", expected[0])
    refusal(root, "preview.png", "beside", holdout_test=2)


def test_a_folder_around_the_data_is_refused_with_the_right_one(folder, tmp_path):
    root, _ = folder
    move(root, train="all/inner/train", test="all/inner/test")
    refusal(root / "all", f"folder:{root}/all/inner", holdout_test=2)


def test_folder_that_is_missing(tmp_path):
    refusal(tmp_path / "none", "no directory", tmp_path / "none", "train/<class>/")
    refusal(tmp_path, "no directory", tmp_path / "train")
    (tmp_path / "test").mkdir()
    refusal(tmp_path, "no directory", tmp_path / "train", "beside test", holdout_test=3)
    (tmp_path / "train").mkdir()
    refusal(tmp_path, "no images", tmp_path / "train")
    write(tmp_path / "train/a/1.png", pixels(6, 5, 3))
    refusal(tmp_path, "no images", tmp_path / "test")


def test_files_in_folders_of_a_class_belong_to_it(folder):
    root, expected = folder
    move(root, **{"train/cat/b.BMP": "train/cat/more/deep/b.BMP"})
    elsewhere = write(root.parent / f"{root.name}-elsewhere/c.png", pixels(6, 5, 3))
    (root / "train/cat/linked").symlink_to(root.parent / f"{root.name}-elsewhere")
    images = load(root).train.images
    assert np.array_equal(images[:3], [expected[0], elsewhere, expected[1]])


def test_links_in_circles_are_named(folder):
    root, _ = folder
    for name in ("train/cat/up", "train/dog/up"):
        (root / name).symlink_to(root / "train")
    (root / "train/cat/self").symlink_to("self")
    message = refusal(root, "train/cat/self (a link to nothing)", "a link to a folder that is read already")
    assert len(message) < 3000


def test_tiny_imagenet(tmp_path, caplog):
    expected = {}
    for label, wnid in enumerate(("n01", "n02")):
        for number in range(2):
            expected[label, number] = write(tmp_path / f"train/{wnid}/images/{wnid}_{number}.JPEG", pixels(8, 8, 3))
        (tmp_path / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t7\t7\n")
        write(tmp_path / f"test/images/test_{label}.JPEG", pixels(8, 8, 3))
    flat = [np.full((8, 8, 3), 50 * number, np.uint8) for number in range(5)]
    for number, image in enumerate(flat):
        write(tmp_path / f"val/images/val_{number}.JPEG", image)
    lines = [f"val_{number}.JPEG\tn0{1 + number % 2}\t0\t0\t7\t7" for number in range(5)]
    annotations = tmp_path / "val/val_annotations.txt"
    annotations.write_text("\n".join(lines) + "\n")
    (tmp_path / "words.txt").write_text("n01\tfirst\n")
    refusal(tmp_path, "test/images", "no labels")
    dataset = load(tmp_path, test_from="validation")
    assert dataset.classes == ("n01", "n02") and dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 0, 1, 1]
    assert (abs(dataset.test.images[:, 0, 0, 0].astype(int) - [0, 100, 200, 50, 150]) <= 2).all()
    assert any("3 files" in line and "n01_boxes.txt" in line and "words.txt" in line for line in caplog.messages)
    annotations.write_text("\n".join([*lines[:-1], "val_9.JPEG\tn01"]))
    refusal(tmp_path, "val_4.JPEG (it is not in val_annotations.txt)", "val_9.JPEG (val_an", test_from="validation")
    for damaged in (lines[0] + "\n" + lines[0].replace("n01", "n02"), "val_0.JPEG\tn07", "val_0.JPEG", "\0"):
        annotations.write_text(damaged)
        refusal(tmp_path, "of", annotations, "repair", test_from="validation")
    annotations.write_bytes(b"\xff\xfe")
    refusal(tmp_path, annotations, "cannot be read", test_from="validation")
    annotations.unlink()
    os.mkfifo(annotations)
    refusal(tmp_path, annotations, "is no file", test_from="validation")


def test_names_of_classes_are_the_same_however_accents_are_stored(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path / f"train/{composed}/1.png", pixels(6, 5, 3))
    write(tmp_path / "train/tea/1.png", pixels(6, 5, 3))
    write(tmp_path / f"test/{decomposed}/1.png", pixels(6, 5, 3))
    dataset = load(tmp_path)
    assert dataset.classes == (composed, "tea") and dataset.test.labels.tolist() == [0]
    (tmp_path / f"train/{decomposed}").mkdir()
    refusal(tmp_path, "two folders whose names look the same", composed, "join or rename")


@pytest.mark.parametrize(("name", "reason"), [("cat ", "look the same, cat"), (" ", "names no class")])
def test_names_of_classes_that_are_doubled_or_empty(folder, name, reason):
    root, _ = folder
    (root / "train" / name).mkdir()
    refusal(root, root / "train", reason, "rename")


def test_classes_that_train_lacks(folder):
    root, _ = folder
    (root / "test/bird").mkdir()
    refusal(root, root / "test", "bird", "train lacks", "remove them")
    (root / "test/bird").rename(root / "test/Cat")
    refusal(root, root / "test", "Cat", "train lacks", "rename Cat to cat")
    (root / "train/bird").mkdir()
    (root / "test/Cat").rmdir()
    refusal(root, "1 of 3 classes", "(bird)", "add some")


def test_without_train_the_classes_are_those_given(folder, caplog):
    """In splits, or in the folder itself, whose images are then to be tested on."""
    root, _ = folder
    given, everything = ("bird", "cat", "dog"), load(root, classes=("other", "names"))
    assert everything.classes == ("cat", "dog")  # train's
    (root / "train").rename(root / "val")
    refusal(root, root / "train", "beside test, val")
    dataset = load(root, classes=given)
    assert dataset.classes == given and len(dataset.train) == 0 and dataset.image_size == (6, 5)
    assert dataset.validation.labels.tolist() == [1, 1, 2, 2, 2, 2] and dataset.test.labels.tolist() == [2]
    assert np.array_equal(dataset.validation.images, everything.train.images) and caplog.messages == []
    flat = load(root / "val", classes=given)
    assert np.array_equal(flat.test.images, dataset.validation.images) and len(flat.validation) == 0
    assert flat.test.names[0] == "cat/a.png" and flat.test.labels.tolist() == [1, 1, 2, 2, 2, 2]
    assert "its folders are taken as the classes of test images" in caplog.text
    (root / "test").rename(root / "elsewhere")
    refusal(root, "no test images, only validation", "--test-from validation", classes=given)
    assert load(root, classes=given, test_from="validation").test.labels.tolist() == [1, 1, 2, 2, 2, 2]


def test_without_train_images_of_other_classes_are_refused(folder):
    root, _ = folder
    refusal(root / "train", "none of the classes (cat, bird)", "dog: rename or remove them", classes=("cat", "bird"))
    refusal(root / "train", "none of the classes", "cat, dog: rename cat to Cat", classes=("Cat", "Dog"))
    refusal(root / "test", "dog/ are in no folders of the classes (a, b)", "sort them into such", classes=("a", "b"))
    refusal(root / "test/dog", "are in no folders of the classes (cat, dog)", classes=("cat", "dog"))
    refusal(root / "train", "none of the classes (0, 1; --classes names them)", classes=("0", "1"))
    move(root, **{"train": "elsewhere/train"})
    (root / "elsewhere").rename(root / "notes")
    refusal(root, "no validation images: leave it out", test_from="validation", classes=("a", "b"))


def test_without_train_the_folder_that_an_archive_leaves_around_is_named(folder):
    root, _ = folder
    move(root, **{"test": "unpacked/photos/test"})
    refusal(root / "unpacked", "nothing but photos, which has test", "give folder:", classes=("cat", "dog"))
    assert len(load(root / "unpacked/photos", classes=("cat", "dog")).test) == 1


def test_given_classes_are_compared_as_they_look_and_checked(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path / f"test/{composed}/1.png", pixels(6, 5, 3))
    dataset = load(tmp_path, classes=["tea", decomposed])
    assert dataset.classes == ("tea", decomposed) and dataset.test.labels.tolist() == [1]
    refusal(tmp_path, "two classes have the name", classes=("tea", "tea"))


def test_classes_that_differ_in_case_within_train_are_two(folder):
    root, _ = folder
    write(root / "train/Cat/1.png", pixels(6, 5, 3))
    assert load(root).classes == ("Cat", "cat", "dog")


@pytest.mark.parametrize("closed", ["train/cat", "train/cat/more"])
def test_folders_without_permission_to_read_are_named(folder, closed):
    root, _ = folder
    write(root / "train/cat/more/c.png", pixels(6, 5, 3))
    with unprivileged() as home:
        root.chmod(0o755)
        root.rename(home / "data")
        (home / "data" / closed).chmod(0)
        try:
            with as_nobody():
                for skip in (False, True):
                    refusal(home / "data", home / "data" / closed, "cannot be read (Permission", skip_unreadable=skip)
        finally:
            (home / "data" / closed).chmod(0o755)
            (home / "data").rename(root)


# Sizes.


def test_images_of_several_sizes_are_asked_for_one(folder):
    root, _ = folder
    write(root / "test/dog/y.png", pixels(7, 5, 3))
    write(root / "train/cat/z.png", pixels(7, 5, 3))
    for number in range(12):
        write(root / f"train/cat/{number}.png", pixels(8 + number, 9, 3))
    message = refusal(
        root, "14 sizes", "6 x 5 (7), 7 x 5 (2), 8 x 9 (1)", " and 4 more: ", "--image-size 6 5", "--resize crop"
    )
    assert "15 x 9" in message and "16 x 9" not in message
    (root / "train/cat/late.png").write_bytes((root / "train/cat/0.png").read_bytes()[:-8])
    (root / "train/cat/text.png").write_text("no image")
    refusal(root, "14 sizes", "besides, 2 files", "late.png", "text.png")


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_images_are_resized_and_those_of_the_size_are_untouched(folder, resize):
    root, expected = folder
    other = write(root / "train/cat/c.png", pixels(10, 15, 3))
    options = {"image_size": (6, 5), "resize": resize, "background": (1, 2, 3)}
    found = load(root, **options).train.images
    assert np.array_equal(found[:2], expected[:2])
    assert np.array_equal(found[2], resized(other, (6, 5), resize, (1, 2, 3)))
    assert load(root, image_size=(4, 9), resize=resize).test.images.shape == (1, 4, 9, 3)


def test_arrays_are_resized_too(tmp_path):
    stored = arrays(test_images=pixels(4, 12, 9))
    np.savez(tmp_path / "data.npz", **stored)
    dataset = load_dataset(f"npz:{tmp_path / 'data.npz'}", image_size=(6, 5), resize="stretch")
    assert np.array_equal(dataset.train.images, stored["train_images"])
    for image, found in zip(stored["test_images"], dataset.test.images, strict=True):
        assert np.array_equal(found, resized(np.stack([image] * 3, -1), (6, 5), "stretch", (255, 255, 255)))


def test_transparent_images_lie_on_the_background(folder):
    root, _ = folder
    write(root / "test/dog/x.png", np.zeros((6, 5, 4), np.uint8))
    assert (load(root).test.images == 255).all()
    assert (load(root, background=(3, 2, 1)).test.images == (3, 2, 1)).all()


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
    assert run.returncode == 0 and "Traceback" not in run.stderr
    assert "pip install tensorflow-datasets" in run.stdout and "npz:FILE" in run.stdout
    assert run.stdout.count("\n") == 1
