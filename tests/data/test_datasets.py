"""Data sets: digest, hold-out, folds, subsets and channel statistics."""

import dataclasses
import hashlib

import numpy as np
import pytest

from jresnet.config import Source
from jresnet.data.datasets import Dataset, Split, load_dataset
from jresnet.errors import InputError
from tests.support.datasets import arrays, pixels, refused


def make_dataset(labels, test_images=5, seed=0, **changes):
    """A data set whose training images store their index in the first pixel."""
    labels = np.asarray(labels, np.int32)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    empty = Split(images[:0], labels[:0])
    parts = {
        "train": Split(images, labels),
        "validation": empty,
        "test": Split(images[:test_images], labels[:test_images]),
    }
    return Dataset(name="made", classes=tuple(map(str, range(labels.max() + 1))), **(parts | changes))


def statistics_of(images):
    """The channel statistics of a data set with these training images."""
    labels = (np.arange(len(images)) % 2).astype(np.int32)
    nothing = Split(images[:0], labels[:0])
    return Dataset("made", Split(images, labels), nothing, nothing, ("a", "b")).channel_statistics


def indices(split):
    return split.images[:, 0, 0, 0] + 256 * split.images[:, 0, 0, 1].astype(int)


def test_names_stay_with_their_images():
    plain = make_dataset(np.arange(600) % 3)
    names = tuple(f"{index}.png" for index in range(600))
    named = dataclasses.replace(plain, train=dataclasses.replace(plain.train, names=names))
    assert named.sha256 == plain.sha256, "names do not identify the data"
    held, fold, part = named.hold_out(60, 0), named.fold(5, 2), named.subset(train=30)
    for split in (held.train, held.validation, fold.train, fold.validation, part.train):
        assert split.names == tuple(f"{index}.png" for index in indices(split))
    assert held.test.names is None
    assert named.train.take(np.array([5, 3])).names == ("5.png", "3.png")
    with pytest.raises(InputError, match="600 images have 1 names: give one per image"):
        dataclasses.replace(plain.train, names=("0.png",))


def test_synthetic():
    dataset = load_dataset("synthetic")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4000, 0, 1000)
    assert dataset.image_size == (32, 32) and len(dataset.classes) == 10
    assert dataset.sha256 == load_dataset("synthetic").sha256


def test_sha256_depends_on_the_pixels_labels_and_shapes_of_every_split():
    base = make_dataset([0, 1, 2, 0, 1, 2])
    assert base.sha256 == make_dataset([0, 1, 2, 0, 1, 2]).sha256
    expected = hashlib.sha256()
    for split in (base.train, base.validation, base.test):
        expected.update(
            str(split.images.shape).encode() + split.images.tobytes() + split.labels.astype("<i4").tobytes()
        )
    assert base.sha256 == expected.hexdigest()

    other = base.train.images.copy()
    other[3, 2, 1, 0] ^= 1
    changed = [
        make_dataset([0, 1, 2, 0, 2, 1]),
        make_dataset([0, 1, 2, 0, 1, 2], train=Split(other, base.train.labels)),
        make_dataset([0, 1, 2, 0, 1, 2], test=base.test.take(slice(4))),
        make_dataset(
            [0, 1, 2, 0, 1, 2],
            train=Split(base.train.images.reshape(6, 2, 8, 3), base.train.labels),
            test=Split(base.test.images.reshape(5, 2, 8, 3), base.test.labels),
        ),
        base.hold_out(3, 0),
    ]
    assert len({base.sha256, *(dataset.sha256 for dataset in changed)}) == 6


def test_hold_out_is_stratified_and_disjoint_and_keeps_the_order():
    dataset = make_dataset(np.random.default_rng(1).permutation(np.repeat([0, 1, 2, 3], [100, 60, 30, 10])))
    split = dataset.hold_out(40, seed=3)
    assert np.bincount(split.validation.labels).tolist() == [20, 12, 6, 2]
    kept, held = indices(split.train), indices(split.validation)
    assert (np.diff(kept) > 0).all()
    assert sorted([*kept, *held]) == list(range(200))
    for part in (split.train, split.validation):
        assert np.array_equal(part.labels, dataset.train.labels[indices(part)])
    assert split.test is dataset.test and split.classes == dataset.classes


def test_hold_out_depends_on_the_seed_alone():
    dataset = make_dataset(np.arange(200) % 4)
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
    split = make_dataset(np.repeat(np.arange(3), counts)).hold_out(n, 0)
    assert np.bincount(split.validation.labels, minlength=3).tolist() == shares


def test_hold_out_of_no_images_returns_the_data_set():
    dataset = make_dataset([0, 1])
    assert dataset.hold_out(0, 5) is dataset


@pytest.mark.parametrize(("n", "part"), [(6, "below 6"), (7, "below 6"), (-1, "below 6"), (5, "class 1")])
def test_hold_out_of_too_many_images(n, part):
    with pytest.raises(InputError, match=rf"^--validation {n}: [^\n]*{part}"):
        make_dataset([0, 0, 0, 1, 1, 2]).hold_out(n, 0)


def test_hold_out_leaves_a_class_without_training_images_alone():
    dataset = make_dataset([0, 0, 1, 1, 2, 2])
    dataset = dataclasses.replace(dataset, train=dataset.train.take(slice(4)))
    held = dataset.hold_out(2, 0)
    assert sorted(held.validation.labels) == sorted(held.train.labels) == [0, 1]


def test_hold_out_with_an_existing_validation_split():
    dataset = make_dataset(np.arange(20) % 2).hold_out(4, 0)
    with pytest.raises(
        InputError, match="--validation 2: made already has a validation split of 4 images: give --validation 0"
    ):
        dataset.hold_out(2, 0)


def test_channel_statistics_are_those_of_all_pixels():
    images = pixels(2500, 3, 4, 3) // np.array([1, 2, 4], np.uint8) + np.array([0, 9, 50], np.uint8)
    images[:7] = 255
    mean, std = statistics_of(images)
    scaled = images.astype(np.float64) / 255
    assert mean == tuple(np.round(scaled.mean(axis=(0, 1, 2)), 4))
    assert std == tuple(np.round(scaled.std(axis=(0, 1, 2)), 4))
    assert all(type(value) is float for value in mean + std)


def test_channel_statistics_of_a_constant_channel():
    images = pixels(10, 3, 4, 3)
    images[..., 1] = 51
    mean, std = statistics_of(images)
    assert mean[1] == 0.2 and std[1] == 1.0 and 0.2 < std[0] < 0.4


def test_channel_statistics_do_not_overflow():
    """The pixels of a chunk of white 64 x 64 images add up to more than 2**32."""
    white = np.full((1100, 64, 64, 3), 255, np.uint8)
    white[0] = 254
    mean, std = statistics_of(white)
    assert mean == (1.0, 1.0, 1.0) and std == (0.0001,) * 3


def test_folds_are_stratified_and_validate_each_image_once():
    dataset = make_dataset(np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 31, 7])))
    folds = [dataset.fold(5, index, seed=3) for index in range(5)]
    assert sorted(np.concatenate([indices(fold.validation) for fold in folds])) == list(range(88))
    for fold in folds:
        assert sorted([*indices(fold.train), *indices(fold.validation)]) == list(range(88))
        assert np.array_equal(fold.validation.labels, dataset.train.labels[indices(fold.validation)])
        assert len(fold.test) == 0 and fold.classes == dataset.classes
        counts = np.bincount(fold.validation.labels, minlength=3)
        assert counts[0] == 10 and counts[1] in (6, 7) and counts[2] in (1, 2) and counts.sum() in (17, 18)
    assert len({fold.sha256 for fold in folds}) == 5 and folds[1].name == "made, fold 2 of 5"
    assert dataset.fold(5, 2, seed=3).sha256 == folds[2].sha256 != dataset.fold(5, 2, seed=4).sha256


@pytest.mark.parametrize("folds", [-1, 0, 1, 4])
def test_folds_are_at_most_the_images_of_the_smallest_class(folds):
    with pytest.raises(InputError, match=f"--folds {folds}: must lie from 2 to 3, as 1, the smallest class, has 3"):
        make_dataset([0] * 9 + [1] * 3).fold(folds, 0)


def test_subsets_are_stratified_and_the_same_every_time():
    dataset = make_dataset(np.arange(60) % 3, test_images=30)
    small = dataset.subset(train=21, test=9)
    assert np.bincount(small.train.labels).tolist() == [7, 7, 7] and np.bincount(small.test.labels).tolist() == [3] * 3
    assert (np.diff(indices(small.train)) > 0).all()
    assert small.sha256 == dataset.subset(train=21, test=9).sha256 != dataset.sha256
    assert (dataset.cut_from, small.cut_from, small.subset(train=9).cut_from) == (None, dataset.sha256, dataset.sha256)
    assert dataset.subset() is dataset
    assert dataset.subset(test=9).train is dataset.train
    for wanted, complaint in (
        ({"train": 61}, "--train-images 61: must lie from 1 to 60"),
        ({"test": 0}, "--test-images 0: must lie from 1 to 30"),
        ({"train": 2}, "--train-images 2: leaves class 2 without an image"),
    ):
        with pytest.raises(InputError, match=complaint):
            dataset.subset(**wanted)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (
            np.zeros((4, 8, 8, 3), np.float32),
            np.zeros(4, np.int32),
            r"images are float32 of shape \(4, 8, 8, 3\)",
        ),
        (np.zeros((4, 8, 8), np.uint8), np.zeros(4, np.int32), r"images are uint8 of shape \(4, 8, 8\): give uint8"),
        (np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32), r"of shape \(4, 8, 8, 1\): give uint8"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64), r"labels are int64 of shape \(4,\): give int32"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, np.int32), r"labels are int32 of shape \(3,\): give int32"),
        (
            np.zeros((4, 8, 8, 3), np.uint8),
            np.zeros((4, 1), np.int32),
            r"of shape \(4, 1\): give int32",
        ),
    ],
)
def test_arrays_of_other_dtypes_or_shapes_are_refused(images, labels, complaint):
    with pytest.raises(InputError, match=complaint):
        Split(images, labels)


def test_splits_that_do_not_go_together_are_refused():
    base = make_dataset([0, 1, 2, 0, 1, 2])
    parts = {"train": base.train, "validation": base.validation, "test": base.test}
    with pytest.raises(InputError, match="train labels go from 0 to 2: give indices from 0 to 1, into the 2 classes"):
        Dataset("made", **parts, classes=("a", "b"))
    with pytest.raises(InputError, match="test labels go from -1 to -1: give indices from 0"):
        Dataset("made", **parts | {"test": Split(base.test.images, -np.ones(5, np.int32))}, classes=base.classes)
    wide = Split(np.zeros((2, 4, 9, 3), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(InputError, match="test images are 4 x 9, train images 4 x 4"):
        Dataset("made", **parts | {"test": wide}, classes=base.classes)


# What to test on


@pytest.fixture
def untested(tmp_path):
    """The name and the arrays of a data set with 12 training and 5 validation images, and none for testing."""
    images = pixels(12, 6, 5, 3)
    stored = arrays(train_images=images, train_labels=np.arange(12) % 3, test_images=None, test_labels=None,
                    val_images=pixels(5, 6, 5, 3), val_labels=np.array([0, 1, 2, 0, 1]))  # fmt: skip
    np.savez(tmp_path / "data.npz", **stored)
    return f"npz:{tmp_path / 'data.npz'}", stored


def test_the_validation_images_can_be_the_test_split(untested):
    name, stored = untested
    dataset = load_dataset(name, test_from="validation")
    assert np.array_equal(dataset.test.images, stored["val_images"]) and len(dataset.validation) == 0
    assert np.array_equal(dataset.train.images, stored["train_images"])
    held = dataset.hold_out(3, seed=0)
    assert (len(held.train), len(held.validation), len(held.test)) == (9, 3, 5)


def test_training_images_can_be_held_out_for_testing(untested):
    """The same for every seed of a run, the same share of each class, in order."""
    name, stored = untested
    dataset = load_dataset(name, holdout_test=3)
    assert (
        np.bincount(dataset.test.labels).tolist() == [1, 1, 1] and np.bincount(dataset.train.labels).tolist() == [3] * 3
    )
    rows = {image.tobytes(): index for index, image in enumerate(stored["train_images"])}
    kept, tested = ([rows[image.tobytes()] for image in part.images] for part in (dataset.train, dataset.test))
    assert kept == sorted(kept) and tested == sorted(tested) and sorted(kept + tested) == list(range(12))
    assert len(dataset.validation) == 5
    assert load_dataset(name, holdout_test=3).sha256 == dataset.sha256
    assert load_dataset(name, holdout_test=6).sha256 != dataset.sha256


def test_without_a_choice_what_to_test_on_is_refused(untested, tmp_path):
    name, stored = untested
    refused(name, "no test images, only train and validation", "--test-from validation, or --holdout-test N")
    for n, part in ((12, "must lie below 12"), (11, "would take every training image of class"), (2**31, "below 2147")):
        with pytest.raises(InputError, match=f"--holdout-test {n}: .*{part}"):
            load_dataset(name, holdout_test=n)
    np.savez(tmp_path / "alone.npz", x=stored["train_images"], y=stored["train_labels"])
    with pytest.raises(InputError, match="--test-from validation: it has no validation images: use --holdout-test N"):
        load_dataset(f"npz:{tmp_path / 'alone.npz'}", test_from="validation")
    np.savez(tmp_path / "complete.npz", **arrays())
    for options in (dict(test_from="validation"), dict(holdout_test=2)):
        with pytest.raises(InputError, match="it has test images of its own: leave it out"):
            load_dataset(f"npz:{tmp_path / 'complete.npz'}", **options)
    with pytest.raises(InputError, match="or --test-from, not both"):
        Source(name, test_from="validation", holdout_test=2)


@pytest.mark.parametrize("kind", ["npz", "folder"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_path_that_is_empty_is_not_the_current_directory(tmp_path, monkeypatch, kind, skip):
    """As of an unset variable in `folder:$DATA`."""
    monkeypatch.chdir(tmp_path)
    np.save("x_train.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(InputError, match=rf"^--dataset {kind}:: no path follows the colon: give one, or {kind}:\. for"):
        load_dataset(f"{kind}:", skip_unreadable=skip and kind == "folder")


@pytest.mark.parametrize("url", ["gs://bucket/data", "s3://bucket/data", "https://example.org/data", "file:///data"])
def test_urls_are_no_local_paths(tmp_path, monkeypatch, url):
    """Each would be a directory called after its scheme."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://variable/data")
    for name, data_dir, given in (
        (f"npz:{url}.npz", None, f"{url}.npz"),
        (f"folder:{url}", None, url),
        ("cifar10", url, f"--data-dir {url}"),
        ("mnist", url, f"--data-dir {url}"),
        ("mnist", None, "TFDS_DATA_DIR gs://variable/data"),
    ):
        with pytest.raises(InputError) as caught:
            load_dataset(name, data_dir)
        assert str(caught.value).startswith(f"--dataset {name}: {given}: is a URL"), caught.value
    assert not [*tmp_path.iterdir()]


def test_unknown_homes_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data_dir in (
        ("npz:~nobody-here/a.npz", None),
        ("folder:~nobody-here/a", None),
        ("mnist", "~nobody-here"),
    ):
        with pytest.raises(InputError, match=r"~nobody-here.*: there is no such home directory: give the full path"):
            load_dataset(name, data_dir)


def test_images_too_many_after_resizing_are_refused_with_the_option(monkeypatch):
    monkeypatch.setattr("jresnet.data.memory.available", lambda: 10**9)
    with pytest.raises(InputError, match=r"4,000 images of 900 x 900 need 9.7 GB .* are available: lower --image-size"):
        load_dataset("synthetic", image_size=(900, 900))
