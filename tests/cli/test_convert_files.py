"""`convert` of files that hold several state dicts, or values that no network has."""

import pathlib
import re

import numpy as np
import pytest

from jresnet import cli
from jresnet.cli import convert
from jresnet.models.weights import torch_files
from jresnet.models.weights.torch_files import load
from tests.support.damage import refused
from tests.support.weights import state_dict

torch = pytest.importorskip("torch")

PLAIN = state_dict(torch)

NETWORK = ["--width", "2", "--blocks", "1", "1", "--pool-size", "4", "--image-size", "8", "8"]
NORMALISATION = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"]


def run(*words):
    """The message of a refusal, or None."""
    options = cli.parse(convert.Options, [str(word) for word in (*words, *NETWORK)], "jresnet convert")
    return refused(lambda: convert.run(options))[1]


def test_one_of_several_state_dicts_is_converted(tmp_path):
    source, target = tmp_path / "w.ckpt", tmp_path / "out.pth"
    torch.save({"model": PLAIN, "model_ema": state_dict(torch, seed=1)}, source)
    assert "model, model_ema" in run(source, target) and not target.exists()
    assert run(source, target, "--key", "model_ema") is None
    assert torch.equal(load(target)["linear.bias"], state_dict(torch, seed=1)["linear.bias"])


def test_impossible_values_reach_no_run(tmp_path, caplog):
    source, target, directory = tmp_path / "w.th", tmp_path / "out.pth", tmp_path / "run"
    torch.save(PLAIN | {"linear.bias": torch.tensor([0.0, float("nan"), 1.0])}, source)
    message = run(source, directory, *NORMALISATION)
    assert message.startswith(f"{source}: linear.bias has values that are NaN") and not directory.exists()
    assert run(source, target) is None
    assert "float32's range (1 of 3): they are kept" in caplog.text and load(target)["linear.bias"].isnan().any()


def test_a_network_of_one_class_becomes_a_file_but_no_run(tmp_path):
    source, target, directory = tmp_path / "w.pth", tmp_path / "out.safetensors", tmp_path / "run"
    torch.save(PLAIN | {"linear.weight": PLAIN["linear.weight"][:1], "linear.bias": PLAIN["linear.bias"][:1]}, source)
    message = run(source, directory, *NORMALISATION)
    assert message.startswith(f"{source}: its network has 1 class") and not directory.exists()
    assert message.endswith(": give weights of more classes")
    assert run(source, target) is None and load(target)["linear.bias"].shape == (1,)


def test_every_suffix_that_makes_a_target_a_file_is_written_and_documented(tmp_path):
    manual = (pathlib.Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    (sentence,) = re.findall(r"A target is a file if it ends in (.*?) and is no directory", manual, re.DOTALL)
    documented = re.findall(r"`(\.\w+)`", sentence)
    assert sorted(documented) == sorted(convert.SUFFIXES)
    for suffix in documented:
        torch_files.save(tmp_path / f"w{suffix}", {"linear.bias": np.ones(3, np.float32)})
