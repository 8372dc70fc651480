"""Unusable input, typed by a user: status 2, one plain line with the value and a remedy, and not one file written."""

import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments import final
from experiments.study import single
from jresnet.data import tfds_reader
from tests.support.studies import TINY, as_nobody, tiny_npz, tree, unprivileged

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a good data set of each kind, that programs run in."""
    tiny_npz(tmp_path / "tiny.npz")
    for split in ("train", "test"):
        for shade, name in ((40, "dark"), (200, "light")):
            directory = tmp_path / "folder" / split / name
            directory.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(np.full((8, 8, 3), shade + index, np.uint8)).save(directory / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capfd, words, *parts):
    """The one line of `experiments.final` with these words; later options override earlier ones."""
    before = tree(".")
    status = single.main("final", final.CONFIG, list(words))
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err
    for part in parts:
        assert part in err
    assert tree(".") == before
    return err.rstrip()


OPTIONS = {
    "--width 0": ["at least 1"],
    "--width -1": ["at least 1"],
    "--batch-size 0": ["at least 1"],
    "--batch-size -8": ["at least 1"],
    "--kernel-size 4": ["odd"],
    "--learning-rate nan": ["finite number above 0"],
    "--learning-rate inf": ["finite number above 0"],
    "--learning-rate -0.1": ["finite number above 0"],
    "--epochs 0": ["at least 1"],
    "--pool-size 5": ["4 x 4", "8 x 8", "choose at most 4"],
    "--pool-size 0": ["at least 1"],
    "--validation 36": ["must lie below 36", "npz:tiny.npz"],
    "--validation 35": ["every training image of class 0", "lower it"],
    "--width five": ["a whole number"],
    "--input numpy": ["one of auto, resident, tfds"],
    "--seeds 0": ["at least 1"],
    "--budget 0": ["at least 1"],
    "--width 99999999999999999999": [": "],
    "--batch-size 99999999999999999999": [": "],
    "--crop-padding 99999999999999999999": [": "],
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("place", [[], ["--workdir", "new/place"]])
def test_options(here, capfd, option, place):
    message = refused(capfd, [*TINY, *option.split(), *place], *OPTIONS[option])
    assert message.startswith(f"{option}: ")


def test_the_budget_of_the_final_experiment(here, capfd):
    message = refused(capfd, ["--width", "43", "--dataset", "synthetic"])
    assert message == (
        "--width 43: the network has 5,047,737 parameters, over the budget of 5,000,000: "
        "choose --width 42 or less, or raise --budget"
    )


@pytest.mark.parametrize("name", ["cifar11", "no such", "../x", "npz"])
def test_unknown_data_sets(here, capfd, name):
    refused(capfd, ["--dataset", name], repr(name), "no such data set", "npz:FILE", "folder:DIR", "synthetic")


def test_missing_file_and_folder(here, capfd):
    refused(capfd, ["--dataset", "npz:none.npz"], "npz:none.npz", str(here / "none.npz"), "give the path")
    refused(capfd, ["--dataset", "folder:none"], "folder:none", str(here / "none"), "train/<class>/")


def images(*shape):
    return np.zeros(shape, np.uint8)


ARRAYS = {
    "no channels last": (dict(train_images=images(36, 3, 8, 8)), ["(36, 3, 8, 8)", "1 or 3 channels"]),
    "flat": (dict(test_images=images(15, 192)), ["(15, 192)", "make it"]),
    "another size": (dict(test_images=images(15, 9, 8, 3)), ["9 x 8", "8 x 8", "resize"]),
    "floats": (dict(train_images=np.zeros((36, 8, 8, 3))), ["float64", "uint8 from 0 to 255"]),
    "no images": (dict(test_images=images(0, 8, 8, 3), test_labels=images(0)), ["none", "at least one"]),
    "label too large": (dict(test_labels=np.arange(15) % 4), ["reach 3", "only 2", "remove their test images"]),
    "negative label": (dict(train_labels=np.arange(36) % 3 - 1), ["-1", "from 0"]),
    "label shape": (dict(train_labels=np.zeros((36, 3), int)), ["(36, 3)", "one class per image"]),
    "label count": (dict(train_labels=np.arange(35) % 3), ["36", "35", "one label per image"]),
    "label type": (dict(train_labels=np.arange(36) % 3 / 1), ["float64", "integers"]),
    "no such array": (dict(test_labels=None), ["lacks test_labels", "give it"]),
    "class without images": (dict(train_labels=np.arange(36) % 3 * 2), ["2 of 5 classes", "(1, 3)", "without gaps"]),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_unusable_arrays(here, capfd, case):
    changes, parts = ARRAYS[case]
    tiny_npz("bad.npz", **changes)
    refused(capfd, [*TINY, "--dataset", "npz:bad.npz"], "--dataset npz:bad.npz: ", *parts)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("key", ["train_images", "train_labels", "test_labels", "classes"])
def test_pickled_objects_are_refused_and_never_executed(here, capfd, key):
    tiny_npz("bad.npz", **{key: None})
    stored = io.BytesIO()
    np.lib.format.write_array_header_1_0(stored, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile("bad.npz", "a") as archive:
        archive.writestr(f"{key}.npy", stored.getvalue() + pickle.dumps(np.array([Bomb()], object)))
    refused(capfd, ["--dataset", "npz:bad.npz"], "npz:bad.npz", key, "pickled", "save it again")
    assert not os.path.exists("executed")
    with zipfile.ZipFile("bad.npz") as archive, archive.open(f"{key}.npy") as member:
        np.lib.format.read_array(member, allow_pickle=True)
    assert os.path.exists("executed"), "the trap itself works"


def test_a_file_that_is_no_npz(here, capfd):
    pathlib.Path("bad.npz").write_bytes(pickle.dumps(Bomb()))
    refused(capfd, ["--dataset", "npz:bad.npz"], "npz:bad.npz", "not an .npz file", "np.savez")
    pathlib.Path("cut.npz").write_bytes(pathlib.Path("tiny.npz").read_bytes()[:-100])
    refused(capfd, ["--dataset", "npz:cut.npz"], "npz:cut.npz", "truncated")


def test_empty_classes_and_strange_files_in_folders(here, capfd):
    folder = ["--dataset", "folder:folder"]
    (here / "folder/train/night").mkdir()
    refused(capfd, folder, "folder:folder", "1 of 3 classes", "(night)", "add some")
    (here / "folder/train/night/0.png").write_text("no image")
    refused(capfd, folder, str(here / "folder/train/night/0.png"), "cannot be read as an image", "repair or remove")
    (here / "folder/train/night/0.png").unlink()
    (here / "folder/train/night").rmdir()
    (here / "folder/test/night").mkdir()
    refused(capfd, folder, "night", "train lacks", "remove")
    refused(capfd, ["--dataset", "folder:folder/train"], str(here / "folder/train/train"))


@pytest.mark.parametrize(
    "closed", ["tiny.npz", "folder", "folder/train", "folder/test/dark", "folder/train/dark/1.png"]
)
def test_data_without_permission_to_read(here, capfd, closed):
    name = "npz:tiny.npz" if closed == "tiny.npz" else "folder:folder"
    # Read once: somebody else may not be allowed to import what reading needs.
    single.load_dataset(name)
    with unprivileged() as home:
        for entry in ("tiny.npz", "folder"):
            (here / entry).rename(home / entry)
        os.chdir(home)
        try:
            (home / closed).chmod(0)
            with as_nobody():
                status = single.main("final", final.CONFIG, ["--dataset", name])
        finally:
            os.chdir(here)
            (home / closed).chmod(0o755)
        out, err = capfd.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"--dataset {name}: {home / closed}" in err and "ermission" in err
        assert sorted(os.listdir(home)) == ["folder", "tiny.npz"]


def test_a_directory_that_cannot_be_the_runs(here, capfd):
    (here / "file").write_text("in the way")
    for path in ("file", "file/run", "/dev/null/run"):
        refused(capfd, [*TINY, "--workdir", path], f"--workdir {path}: ", "is not a directory: choose another")
    refused(capfd, [*TINY, "--workdir", "x" * 300], "--workdir xxx", "choose another")


def test_the_directory_of_another_run(here, capfd):
    words = [*TINY, "--epochs", "1", "--workdir", "run"]
    assert single.main("final", final.CONFIG, words) == 0
    capfd.readouterr()
    for option, difference in (
        ("--width 3", "width 2, not 3"),
        ("--blocks 2 1", "blocks [1, 1], not [2, 1]"),
        ("--first-seed 5", "seed 0, not 5"),
        ("--dataset folder:folder", "data sha256"),
    ):
        for resume in ([], ["--resume"]):
            message = refused(capfd, [*words, *option.split(), *resume], difference, "choose another directory")
            assert message.startswith("--workdir run: holds another run")
    refused(capfd, words, "--workdir run: already holds this run: add --resume")
    for name, content in (("result.json", "{}"), ("result.json", "["), ("config.json", "{}"), ("config.json", "")):
        (here / "run" / name).write_text(content)
        refused(capfd, [*words, "--resume"], f"run/{name}", "choose")


def python(program, here, **environment):
    """Run a program in a process of its own, in `here`."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True,
    )  # fmt: skip


def test_a_batch_that_the_devices_cannot_share(here):
    before = tree(here)
    program = f"""
        from experiments import final
        from experiments.study import single
        for size in ("16", "2"):
            print(single.main("final", final.CONFIG, [*{TINY}, "--batch-size", size]))
    """
    done = python(program, here, XLA_FLAGS="--xla_force_host_platform_device_count=3")
    assert done.stdout == "2\n2\n"
    first, second = done.stderr.splitlines()
    assert first.startswith("--batch-size 16: does not divide among 3 devices: choose 15 or 18")
    assert second.startswith("--batch-size 2: does not divide among 3 devices: choose 3")
    assert tree(here) == before


ABSENT = """
    import json, sys

    class Without:
        '''Finds nothing of some packages, as where they are not installed.'''

        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, *arguments):
            return None if name.partition(".")[0] in {absent} else self.finder.find_spec(name, *arguments)

    sys.meta_path = [Without(finder) for finder in sys.meta_path]
    from experiments import final
    from experiments.study import single
    from jresnet.data import tfds_reader
    tfds_reader._any_answers = lambda hosts: True
    print(json.dumps([single.main("final", final.CONFIG, words) for words in {commands}]))
"""


@pytest.mark.parametrize("absent", [["tensorflow"], ["tensorflow", "tensorflow_datasets"]])
def test_without_tensorflow(here, absent):
    """With a network, so that nothing else is missing."""
    before = tree(here)
    commands = [["--dataset", "cifar10"], [*TINY, "--input", "tfds"]]
    done = python(ABSENT.format(absent=absent, commands=commands), here, TFDS_DATA_DIR=str(here / "none"))
    assert json.loads(done.stdout.splitlines()[-1]) == [2, 2]
    assert len(done.stdout.splitlines()) == 1 and len(done.stderr.splitlines()) == 2
    data, streaming = done.stderr.splitlines()
    package = "tensorflow-datasets" if len(absent) == 2 else "tensorflow,"
    assert data.startswith("--dataset cifar10: ") and f"needs {package}" in data and "pip install tensorflow" in data
    assert streaming.startswith("--input tfds: needs TensorFlow") and "--input resident" in streaming
    assert tree(here) == before


@pytest.mark.parametrize("network", ["refusing", "silent"])
def test_cifar10_without_network(here, capfd, monkeypatch, network):
    import tensorflow_datasets  # noqa: F401

    directory = here / "none"
    words = ["--dataset", "cifar10"]
    ask = tfds_reader._answers
    if network == "refusing":
        # A name that nobody resolves, for machines that do have a network.
        monkeypatch.setattr(tfds_reader, "_answers", lambda host: ask("http://nowhere.invalid/"))
        words += ["--data-dir", str(directory)]
        directory.mkdir()
    else:
        monkeypatch.setattr(tfds_reader, "_answers", lambda host: threading.Event().wait(20))
        monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    started = time.monotonic()
    refused(
        capfd, words, "--dataset cifar10: ", str(directory), "--data-dir", "TFDS_DATA_DIR", "connect to the network",
        "npz:FILE", "folder:DIR", "--dataset synthetic",
    )  # fmt: skip
    assert time.monotonic() - started < 5
