"""`jresnet export`: what it writes and prints, and what it refuses before any work."""

import hashlib
import importlib.util
import json
import pathlib
import shlex

import jax
import numpy as np
import pytest

from jresnet import models
from jresnet.cli import commands
from jresnet.config import Config
from jresnet.models import torch_weights
from jresnet.use.classifier import store
from tests.support.commands import refusal

NORMALISATION = ("--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.25", "0.3")


@pytest.fixture
def place(monkeypatch, tmp_path):
    """An empty directory, which is the working directory, where a weights file and other things are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    (tmp_path / "carded.onnx.json").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run", "TARGET: must be given"),
        ("run a", "a: must end in one of .stablehlo, .onnx, .safetensors: choose another name, or give --format"),
        ("run a.pth", "a.pth: must end in one of .stablehlo, .onnx, .safetensors"),
        ("run a.onnx --format tflite", "--format tflite: must be one of stablehlo, onnx, safetensors"),
        ("run a.onnx --format stablehlo", "--format stablehlo: a.onnx ends in the suffix of another"),
        ("run a.onnx --layout kuangliu", "--layout kuangliu: only .safetensors files have names of tensors"),
        ("run there.onnx", "there.onnx: exists already: choose another name, or remove it"),
        ("run there --format onnx", "there.onnx: exists already"),
        ("run carded.onnx", "carded.onnx.json: exists already"),
        ("run none/a.onnx", "none/a.onnx: none is not a directory: make it, or choose another"),
        ("run s3://bucket/a.onnx", "s3://bucket/a.onnx: is a URL, and jresnet reads and writes local files"),
        ("run . --format onnx", ".: is a directory: name a file in it"),
        ("run / --format onnx", "/: is a directory: name a file in it"),
        ("run '' --format onnx", "'': is a directory: name a file in it"),
        ("run empty --format safetensors", "empty: is a directory: name a file in it"),
        (f"run {'x' * 300}.onnx", f"{'x' * 300}.onnx: cannot be reached (File name too long): check the path and"),
        (f"run {'x' * 250} --format onnx", f"{'x' * 250}.onnx"),
        (f"{'x' * 300} a.stablehlo", f"{'x' * 300}: cannot be reached (File name too long): check the path and"),
        ("none a.stablehlo", "none: there is no such run or file of weights"),
        ("none.th a.stablehlo --model resnet20", "none.th: there is no such run or file of weights"),
        (
            "empty a.stablehlo",
            "empty/config.json: cannot be read (No such file or directory)",
        ),
        ("empty a.stablehlo --width 4", "--width 4: the run's own record says it"),
        ("there.onnx a.stablehlo", "--mean and --std: weights from a file need the normalisation"),
        (f"there.onnx a.stablehlo {' '.join(NORMALISATION)}", "there.onnx: "),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(capsys, place, words, message):
    before = sorted(place.rglob("*"))
    assert refusal(capsys, "export", *shlex.split(words)).startswith(message)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "a.onnx",
            "a.onnx: writing it needs onnx, which is not installed: install the extra of",
        ),
        (
            "a.safetensors",
            "a.safetensors: writing it needs safetensors, which is not installed: install it",
        ),
    ],
)
def test_an_absent_library_is_named_before_anything_is_read(capsys, place, monkeypatch, target, message):
    find = importlib.util.find_spec
    absent = target.removeprefix("a.")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else find(name, *rest))
    assert refusal(capsys, "export", "none", target).startswith(message)


def test_a_directory_that_cannot_be_written_is_refused(capsys, place, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "touch", fail)  # for root every directory can be written
    assert refusal(capsys, "export", "none", "a.stablehlo").startswith("a.stablehlo: . is not writable: choose another")


@pytest.fixture(scope="module")
def classifier():
    config = models.fill_defaults(Config(width=2, blocks=(1, 1), pool_size=4))
    network, rng = models.from_config(config, 3), np.random.default_rng(0)
    shapes = models.variable_shapes(network, (8, 8))
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.4, leaf.shape).astype(leaf.dtype), shapes)
    return config, network, variables


@pytest.mark.slow
def test_a_run_becomes_a_program(capsys, place, classifier):
    config, _, variables = classifier
    store("run", config, variables, ("x", "y", "z"), (8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    for name in ("stablehlo", "onnx"):
        if name == "onnx":
            pytest.importorskip("onnx")
        assert commands.main(["export", "run", "mine.v2", "--format", name]) == 0
        assert capsys.readouterr().out == "".join(f"mine.v2.{name}{card}\n" for card in ("", ".md", ".json"))
        told = json.loads((place / f"mine.v2.{name}.json").read_text())
        assert told["training"] == {"note": "not known: the weights are from elsewhere"}


def test_a_file_of_weights_is_exported_with_its_options(capsys, place, classifier):
    pytest.importorskip("safetensors")
    _, network, variables = classifier
    torch_weights.save("w.safetensors", torch_weights.to_state_dict(variables, network, image_size=(8, 8)))
    words = ["w.safetensors", "a.safetensors", *NORMALISATION, "--image-size", "8", "8", "--pool-size", "4"]
    words += ["--classes", "x", "y", "z", "--licence", "CC0", "--layout", "torchvision"]
    assert commands.main(["export", *words]) == 0
    out, err = capsys.readouterr()
    assert out == "a.safetensors\na.safetensors.md\na.safetensors.json\n" and "read as resnet18 --width 2" in err
    assert "fc.weight" in torch_weights.load("a.safetensors")
    told = json.loads((place / "a.safetensors.json").read_text())
    assert told["network"]["classes"] == ["x", "y", "z"] and told["input"]["std"] == [0.2, 0.25, 0.3]
    sha256 = hashlib.sha256((place / "w.safetensors").read_bytes()).hexdigest()
    note = "not known: the weights are from elsewhere"
    assert told["training"] == {"note": note, "source": "w.safetensors", "sha256": sha256}
    assert told["licence"]["weights"] == "CC0"
