"""`jresnet.export`: programs compute what `Classifier.predict` does, weights are the run's, the card tells of both."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

import jresnet
from jresnet import models
from jresnet.config import Config
from jresnet.errors import CannotWrite, InputError
from jresnet.records import run_directory
from jresnet.records.run import without_folders
from jresnet.train.loop import describe
from jresnet.use.classifier import Classifier, described
from jresnet.use.export import artifact, card, stablehlo
from tests.support.runs import CONFIG, make_dataset

ROOT = pathlib.Path(__file__).parents[2]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def classifier_of(config, size=(8, 8), classes=3, seed=0):
    """A network with random weights and statistics, as from a file."""
    network, rng = models.from_config(models.fill_defaults(config), classes), np.random.default_rng(seed)

    def drawn(leaf):
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5 / (10 if len(leaf.shape) == 2 else 1)  # no class takes all
        values = rng.normal(0, scale, leaf.shape) if len(leaf.shape) > 1 else rng.uniform(0.5, 1.5, leaf.shape)
        return values.astype(leaf.dtype)

    variables = jax.tree.map(drawn, models.variable_shapes(network, size))
    return Classifier(network, variables, described(config, [f"class {i}" for i in range(classes)], size, MEAN, STD))


def images(size, count=3):
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), np.uint8)


def epochs(count):
    """The records of epochs, each with its own figures."""
    same = {"learning_rate": 0.05, "images_per_second": 10.0, "seconds": 2.0}
    return [
        {"epoch": e, "train_loss": 2.0 - e, "train_accuracy": 0.25, "test_loss": 2.5 - e, "test_accuracy": e / 3} | same
        for e in range(count)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The records of a finished run of three epochs of five steps, and its network with random weights."""
    directory, config = tmp_path_factory.mktemp("run") / "mine", models.fill_defaults(CONFIG)
    run = describe(config, make_dataset(), "abc", 7, "trial")
    run_directory.create(directory, run)
    history = epochs(3)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    record = {name: run.to_json()[name] for name in ("experiment", "config", "seed", "dataset")} | history[-1]
    del record["epoch"], record["learning_rate"]
    record |= {"parameters": 1, "epochs": 3, "device": "an abacus", "versions": {"jax": "0.1"}, "commit": "c0ffee"}
    run_directory.finish(directory, record | {"seconds": 6.0, "compile_seconds": 1.0}, history)
    made = classifier_of(config)
    return Classifier(made.model, made.variables, run, directory, 15)


def told(classifier, folder, licence=None):
    """The card of an empty file."""
    (folder / "a.onnx").touch()
    return card.describe(classifier, folder / "a.onnx", "ONNX", card.inside(classifier), licence)


def test_a_stablehlo_program_predicts_as_the_classifier(finished, tmp_path):
    files = jresnet.export(finished, tmp_path / "a.stablehlo")
    assert [file.name for file in files] == ["a.stablehlo", "a.stablehlo.md", "a.stablehlo.json"]
    assert sorted(files) == sorted(tmp_path.iterdir())
    data = files[0].read_bytes()
    program = jax_export.deserialize(bytearray(data))
    assert program.platforms == ("cpu", "cuda")
    expected = finished.predict(images((8, 8)))
    assert expected.std(0).max() > 2e-4
    for count in (1, 3):
        np.testing.assert_allclose(program.call(images((8, 8))[:count]), expected[:count], atol=1e-6, rtol=0)
    assert str(ROOT).encode() not in data and stablehlo.program(finished) == data
    written = json.loads(files[2].read_text())
    assert written["artifact"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert written["artifact"]["bytes"] == len(data)
    assert files[1].read_text() == card.markdown(written)


def test_the_card_tells_of_the_run(finished, tmp_path):
    card_of = told(finished, tmp_path, "CC0 | mine")
    figures = {"train_loss": 0.0, "train_accuracy": 0.25, "test_loss": 2.5 - 2, "test_accuracy": 2 / 3}
    assert card_of["figures"] == {"of": "these weights, after epoch 2, counted from 0"} | figures
    expected = {"experiment": "trial", "seed": 7, "run": "finished", "updates": "15 of 15", "device": "an abacus"}
    expected |= {"jax": "0.1", "commit": "c0ffee", "learning_rate": 0.05, "dropout": 0.1}
    assert card_of["training"].items() >= expected.items()
    assert "shortcut" not in card_of["training"]  # the network's own
    assert card_of["data"].items() >= {"name": "tiny", "train": 72, "test": 37, "classes": 3, "sha256": "abc"}.items()
    assert card_of["network"]["classes"] == ["left", "middle", "right"]
    size = sum(leaf.size for leaf in jax.tree.leaves(finished.variables["params"]))
    assert card_of["network"]["parameters"] == size
    assert card_of["input"]["shape"].startswith("[n, 8, 8, 3]") and card_of["input"]["dtype"].startswith("uint8")
    assert card_of["input"]["mean"] == list(finished.run.mean)
    assert card_of["licence"] == {"weights": "CC0 | mine", "code_of_jresnet": "Apache-2.0"}
    lines = card.markdown(card_of).splitlines()
    assert {"## Figures", "| weights | CC0 \\| mine |", "| test accuracy | 0.666667 |", "| nesterov | no |"} <= {*lines}


def test_figures_of_averages_are_not_those_of_training(finished, tmp_path):
    config = dataclasses.replace(finished.run.config, ema_decay=0.99)
    run = dataclasses.replace(finished.run, config=config)
    figures = card._figures(run, finished.source, finished.step)
    assert set(figures) == {"of", "test_loss", "test_accuracy"}


def test_no_custom_call_is_left_to_the_platform():
    """JAX guarantees the compatibility of StableHLO; of custom calls only that of some, and of this check of shapes."""
    classifier = classifier_of(Config(model="resnet20", width=3, blocks=(1, 1)))
    program = jax_export.deserialize(bytearray(stablehlo.program(classifier)))
    text = program.mlir_module()
    assert set(re.findall(r"custom_call @?(\w+)", text)) <= {"shape_assertion"}
    assert "gather" not in text and "stablehlo.convolution" in text


def test_weights_are_the_runs_by_pytorchs_names(finished, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    target, _, file = jresnet.export(finished, tmp_path / "mine", "safetensors", layout="torchvision")
    assert target.name == "mine.safetensors"
    tensors, params = safetensors.load_file(target), finished.variables["params"]
    np.testing.assert_array_equal(tensors["fc.weight"], params["linear"]["kernel"].T)
    kernel = params["layer2_0"]["shortcut_conv"]["kernel"]
    np.testing.assert_array_equal(tensors["layer2.0.downsample.0.weight"], kernel.transpose(3, 2, 0, 1))
    written = json.loads(file.read_text())
    assert written["artifact"]["format"] == "safetensors, weights in torchvision's layout"
    assert written["input"]["shape"].startswith("[n, 3, 8, 8]") and "before" in written["input"]["normalisation"]
    assert written["output"]["meaning"].startswith("logits")


def test_the_card_has_the_reports_counts(tmp_path):
    config = models.fill_defaults(Config(width=42))
    run = described(config, list("abcdefghij"), (32, 32), MEAN, STD)
    card_of = told(Classifier(models.from_config(config, 10), {}, run), tmp_path)
    network = card_of["network"]
    assert (network["parameters"], network["multiply_adds_per_image"]) == (4_815_940, 239_600_928)
    lines = {*card.markdown(card_of).splitlines()}
    assert {"| parameters | 4,815,940 |", "| multiply adds per image | 239,600,928 |"} <= lines
    for section in ("data", "figures", "training"):
        assert card_of[section] == {"note": "not known: the weights are from elsewhere"}
    assert "| weights | not stated |" in lines


def test_figures_are_only_those_of_the_same_weights(finished, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(finished.source, directory)
    (directory / "result.json").unlink()

    def after(step):
        return told(Classifier(finished.model, finished.variables, finished.run, directory, step), tmp_path)

    assert after(15)["training"]["run"] == "not finished"
    assert after(10)["figures"]["test_loss"] == 2.5 - 1 and after(10)["training"]["updates"] == "10 of 15"
    within = {"note": "none: the weights are from within epoch 2, not from its end"}
    assert after(12)["figures"] == within and set(after(0)["figures"]) == {"note"}
    (directory / "metrics.jsonl").write_text("")
    assert set(after(15)["figures"]) == {"note"}


@pytest.mark.parametrize(
    ("given", "shown"), [("folder:/home/me/flowers", "folder:flowers"), ("npz:a/b.npz", "npz:b.npz"), ("tiny", "tiny")]
)
def test_the_card_names_no_folder_of_this_machine(given, shown):
    assert without_folders(given) == shown


def test_names_stay_text_on_one_line_in_markdown(finished, tmp_path):
    told_of = told(finished, tmp_path, "CC0\n\n# mine")
    told_of["artifact"]["file"] = "a\n# b <img src=c> [d](e)\x1b.onnx"
    lines = card.markdown(told_of).splitlines()
    assert lines[0] == r"# a\\n# b &lt;img src=c> [d]\(e)\\x1b.onnx"
    assert r"| weights | CC0\\n\\n# mine |" in lines
    assert [line for line in lines if line.startswith("# ")] == lines[:1]


def test_what_fails_leaves_nothing(monkeypatch, tmp_path):
    classifier = classifier_of(Config(width=2, blocks=(1,), pool_size=8))
    monkeypatch.setattr(stablehlo, "program", lambda classifier: b"a program")

    def fail(*arguments):
        raise CannotWrite("no room")

    for name in ("write_json", "write_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(artifact, name, fail)
            with pytest.raises(CannotWrite):
                jresnet.export(classifier, tmp_path / "a.stablehlo")
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(artifact, "MAX_BYTES", 10)
    with pytest.raises(
        InputError, match=r"its weights take [\d,]+ bytes, and the format holds 10: export .safetensors"
    ):
        jresnet.export(classifier, tmp_path / "a.stablehlo")
    assert not list(tmp_path.iterdir())


def script():
    """The program of docs/use.md that runs an exported one."""
    (found,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/use.md").read_text(), re.DOTALL)
        if "export.deserialize" in block
    ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "wide_resnet16_8", "resnet20", "resnet_se443", "imagenet_resnet50"])
def test_the_documented_script_runs_it_without_jresnet(model, tmp_path):
    size = (65, 64) if model.startswith("imagenet") else (32, 32)
    classifier = classifier_of(Config(model=model, width=16, blocks=(1, 1, 1)), size)
    jresnet.export(classifier, tmp_path / "a.stablehlo")
    (tmp_path / "run.py").write_text(script())
    assert len(script().splitlines()) <= 10
    np.save(tmp_path / "images.npy", images(size))
    (tmp_path / "jresnet").mkdir()  # found before the installed one
    (tmp_path / "jresnet" / "__init__.py").write_text("raise SystemExit('jresnet is imported')")
    done = subprocess.run(
        [sys.executable, "run.py", "a.stablehlo", "images.npy", "probabilities.npy"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    expected = classifier.predict(images(size))
    assert expected.std(0).max() > 2e-4 and expected.max() < 0.999
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_network_in_bfloat16_is_exported_as_it_is_and_to_onnx_in_float32(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    classifier = classifier_of(Config(width=8, blocks=(1, 1), precision="bfloat16"))
    program, *_ = jresnet.export(classifier, tmp_path / "a.stablehlo")
    model, *_ = jresnet.export(classifier, tmp_path / "a.onnx")
    batch, expected = images((8, 8)), classifier.predict(images((8, 8)))
    assert expected.max() < 0.999
    np.testing.assert_allclose(jax_export.deserialize(program.read_bytes()).call(batch), expected, atol=1e-2)
    exact = Classifier(classifier.model.clone(dtype=jnp.float32), classifier.variables, classifier.run).predict(batch)
    (probabilities,) = onnxruntime.InferenceSession(model).run(None, {"images": batch})
    np.testing.assert_allclose(probabilities, exact, atol=1e-5)


@pytest.mark.slow
def test_a_run_is_exported_with_the_figures_of_its_last_epoch(tmp_path):
    result = jresnet.fit(CONFIG, make_dataset(), tmp_path / "run")
    *_, file = jresnet.export(Classifier.load(tmp_path / "run"), tmp_path / "a.stablehlo")
    written = json.loads(file.read_text())
    assert written["figures"]["test_accuracy"] == result.test_accuracy
    assert written["figures"]["train_loss"] == result.train_loss
    assert written["training"]["updates"] == "15 of 15" and written["training"]["commit"] == result.commit
    assert written["data"]["sha256"] == result.dataset["sha256"]
