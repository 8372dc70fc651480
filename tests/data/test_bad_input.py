"""Unusable input on the command line: exit status 2, one line with the value and a remedy, and no file written.

The readers' own tests have the other cases of unusable data.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from PIL import Image

from experiments import final
from experiments.study import single
from jresnet.data.datasets import load_dataset
from tests.support.studies import TINY, as_nobody, tiny_npz, tree, unprivileged

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with a valid .npz file and a valid folder of images."""
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
    """Check that `experiments.final` refuses these arguments, of which later ones override earlier ones."""
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
    "--pool-size -1": ["at least 0"],
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
@pytest.mark.parametrize("workdir", [[], ["--workdir", "new/run"]])
def test_options(here, capfd, option, workdir):
    message = refused(capfd, [*TINY, *option.split(), *workdir], *OPTIONS[option])
    assert message.startswith(f"{option}: ")


def test_the_budget_of_the_final_experiment(here, capfd):
    message = refused(capfd, ["--width", "43", "--dataset", "synthetic"])
    assert message == (
        "--width 43: the network has 5,047,737 parameters, over the budget of 5,000,000: "
        "choose --width 42 or less, or raise --budget"
    )


DATA = {
    "cifar11": ["'cifar11'", "no such data set", "npz:FILE", "folder:DIR", "synthetic"],
    "npz:none.npz": ["none.npz: there is no such file", "give the path"],
    "npz:floats.npz": ["train images are float64", "uint8 from 0 to 255"],
    "folder:none": ["there is no directory", "none", "train/<class>/"],
}


@pytest.mark.parametrize("name", DATA)
def test_data_sets(here, capfd, name):
    tiny_npz("floats.npz", train_images=np.zeros((36, 8, 8, 3)))
    refused(capfd, [*TINY, "--dataset", name], "--dataset ", name, *DATA[name])


@pytest.mark.parametrize(
    "closed", ["tiny.npz", "folder", "folder/train", "folder/test/dark", "folder/train/dark/1.png"]
)
def test_data_without_permission_to_read(here, capfd, closed):
    name = "npz:tiny.npz" if closed == "tiny.npz" else "folder:folder"
    # Import what reading needs: the other user may not have access to it.
    load_dataset(name)
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


def test_a_workdir_that_cannot_be_created(here, capfd):
    (here / "file").write_text("not a directory")
    for path in ("file", "file/run", "/dev/null/run"):
        refused(capfd, [*TINY, "--workdir", path], f"--workdir {path}: ", "is not a directory: choose another")
    refused(capfd, [*TINY, "--workdir", "x" * 300], "--workdir xxx", "choose another")


def test_the_workdir_of_another_run(here, capfd):
    words = [*TINY, "--epochs", "1", "--workdir", "run"]
    assert single.main("final", final.CONFIG, words) == 0
    capfd.readouterr()
    for option, difference in (
        ("--width 3 --resume", "width 2, not 3"),
        ("--blocks 2 1", "blocks 1 1, not 2 1"),
        ("--first-seed 5", "seed 0, not 5"),
        ("--dataset folder:folder --resume", "data sha256"),
    ):
        message = refused(capfd, [*words, *option.split()], difference, "choose another directory")
        assert message.startswith("--workdir run: holds another run")
    refused(capfd, words, "--workdir run: already holds this run: add --resume")
    for name, content in (("result.json", "{}"), ("result.json", "["), ("config.json", "{}"), ("config.json", "")):
        (here / "run" / name).write_text(content)
        refused(capfd, [*words, "--resume"], f"run/{name}", "restore")


def python(program, here, **environment):
    """Run a Python program in a new process, in `here`."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True,
    )  # fmt: skip


def test_a_batch_that_does_not_divide_among_the_devices(here):
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
        '''Hides some packages, as if they were not installed.'''

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
    """With a network, so that only TensorFlow is missing."""
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

    tested = threading.Event()

    def resolve(*_, **__):
        """Fail to resolve a host name, at once or after the time of the whole test."""
        tested.wait(20 if network == "silent" else 0)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    directory = here / "none"
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    started = time.monotonic()
    refused(
        capfd, ["--dataset", "cifar10"], "--dataset cifar10: ", str(directory), "--data-dir", "TFDS_DATA_DIR",
        "connect to the network", "npz:FILE", "folder:DIR", "--dataset synthetic",
    )  # fmt: skip
    assert time.monotonic() - started < (5 if network == "silent" else 2)
    tested.set()
