"""Made-up outcomes of studies for the page: records, histories and predictions as real runs write them."""

import dataclasses
import json

import numpy as np

from experiments.report import COMPARED
from experiments.study.experiment import Cell, Experiment, Outcome, Setting
from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Dataset, Split

SHA256 = "0123456789abcdef" * 4
VERSIONS = {"python": "3.11.7", "jresnet": "0.1.0", "jax": "0.10.2"}
RATES = {"0.01": 0.87, "0.005": 0.88, "0.001": 0.89}


def dataset(classes=("cat", "dog", "tree"), per_class=8, size=32, seed=0):
    """Random pixels, with the same number of training and test images in every class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(classes)), per_class).astype(np.int32)

    def split(n):
        return Split(rng.integers(0, 256, (n, size, size, 3), np.uint8), rng.permutation(labels)[:n])

    return Dataset("made-up", split(len(labels)), split(0), split(len(labels)), tuple(classes))


def history(epochs, accuracy, seed, validation=True):
    """Curves that end near `accuracy`, with the noise of a constant learning rate."""
    rng = np.random.default_rng((seed, int(accuracy * 1e6)))
    lines = []
    for epoch in range(epochs):
        progress = 1 - np.exp(-3 * (epoch + 1) / epochs)
        test = accuracy * (0.4 + 0.6 * progress) + rng.normal(0, 0.01)
        figures = {"test": test, "train": accuracy * (0.35 + 0.7 * progress)}
        if validation:
            figures["validation"] = test + rng.normal(0, 0.004)
        line = {"epoch": epoch}
        for name, value in figures.items():
            line |= {f"{name}_loss": 2.3 * (1.02 - value), f"{name}_accuracy": value}
        line["test_accuracy_batch_mean"] = test + 0.0007
        lines.append(line | {"learning_rate": 0.01, "images_per_second": 300.0, "seconds": 12.5})
    return tuple(lines)


def record(experiment, config, data, seed, lines, predictions=None):
    """The content of `result.json` after these lines of `metrics.jsonl`."""
    figures = {key: value for key, value in lines[-1].items() if "loss" in key or "accuracy" in key}
    if predictions is not None:
        figures["test_accuracy"] = float(np.mean(predictions == data.test.labels))
    filled = models.fill_defaults(config)
    return {
        "experiment": experiment,
        "config": dataclasses.asdict(filled) | {"blocks": list(filled.blocks)},
        "seed": seed,
        "parameters": models.parameter_count(models.from_config(config, len(data.classes)), data.image_size),
        "epochs": len(lines),
        **figures,
        "dataset": {
            "name": data.name, "train": len(data.train) - config.validation, "validation": config.validation,
            "test": len(data.test), "classes": len(data.classes), "sha256": SHA256,
        },
        "device": "cpu: Model x2 cores",
        "versions": VERSIONS,
        "commit": "f" * 40,
        "seconds": 12.5 * len(lines),
        "compile_seconds": 4.0,
        "images_per_second": 300.0,
    }  # fmt: skip


def predict(data, accuracy, seed):
    """Predictions that are correct with this probability, and their confidences."""
    rng = np.random.default_rng(seed)
    labels = data.test.labels
    wrong = (labels + rng.integers(1, len(data.classes), len(labels))) % len(data.classes)
    predictions = np.where(rng.random(len(labels)) < accuracy, labels, wrong).astype(np.int32)
    return predictions, rng.uniform(1 / len(data.classes), 1, len(labels)).astype(np.float32)


def cell(directory, experiment, label, config, data, accuracy, seeds, predictions=False, validation=True):
    """One setting's runs, seeds 0 to seeds - 1, their files below `directory`/LABEL."""
    records, histories, directories = [], [], []
    for seed in range(seeds):
        run = directory / label / f"seed-{seed}"
        run.mkdir(parents=True, exist_ok=True)
        lines = history(config.epochs, accuracy + 0.003 * seed, seed, validation)
        found = None
        if predictions:
            found, confidences = predict(data, accuracy, seed)
            np.savez(run / "predictions.npz", test_predictions=found, test_confidences=confidences)
        records.append(record(experiment, config, data, seed, lines, found))
        (run / "result.json").write_text(json.dumps(records[-1], indent=2))
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        histories.append(lines)
        directories.append(run)
    command = f"python -m experiments.{experiment} --only {label} --seeds {max(seeds, 1)}"
    return Cell(Setting(label, config), tuple(records), tuple(histories), tuple(directories), command)


def rates(directory, data, seeds=(2, 2, 2), epochs=3, **options):
    """The learning-rate sweep with this many seeds per setting."""
    cells = [
        cell(
            directory / "learning_rate", "learning_rate", label,
            Config(dataset=data.name, width=8, learning_rate=float(label), epochs=epochs), data, accuracy, n, **options,
        )
        for (label, accuracy), n in zip(RATES.items(), seeds, strict=True)
    ]  # fmt: skip
    reported = {label: {COMPARED: accuracy} for label, accuracy in RATES.items()}
    claim = ("0.001", "0.005", "0.01")
    settings = tuple(cell.setting for cell in cells)
    experiment = Experiment(
        "learning_rate", "4.2.1", "Learning rate", settings, reported, claim, "0.001", "learning_rate"
    )
    return experiment, tuple(cells)


def final(directory, data, seeds=2, epochs=3, **options):
    """The final model, with predictions."""
    config = Config(dataset=data.name, width=8, batch_size=32, learning_rate=0.001, epochs=epochs, budget=5_000_000)
    one = cell(directory / "final", "final", "final", config, data, 0.9, seeds, predictions=True, **options)
    reported = {
        "final": {
            "train_loss": 0.050407, "test_loss": 0.358776, "train_accuracy": 0.982726, COMPARED: 0.909545,
            "parameters": 4815940,
        }
    }  # fmt: skip
    return Experiment("final", "4.3", "Final model", (one.setting,), reported), (one,)


def outcome(experiments, data, **changes):
    """Those experiments as one study."""
    values = {
        "seeds": 2, "select": "validation", "follow": False, "command": "python -m experiments.reproduce --seeds 2",
        "caption": "Made-up images, width 8, 3 epochs, 2 seeds, on a CPU.",
    }  # fmt: skip
    return Outcome(tuple(experiments), data, **values | changes)
