"""The model card of an artifact: what it is, on which data and how it was made, what it reaches and what it is for."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jresnet.errors import listed
from jresnet.models import summary
from jresnet.models.weights.recognise import as_words
from jresnet.records import environment, run_directory, schema
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.files import Record, file_sha256
from jresnet.records.run import Run, identity, without_folders
from jresnet.records.tables import Table, escaped, text
from jresnet.use.classifier import CONVERTED, Classifier

UNKNOWN = "not known: the weights are from elsewhere"
LIMITS = (
    "Every image gets one of the classes, also one that shows none of them. The probabilities were not calibrated. "
    "Figures, where there are any, are of the test images named here; on other images, cameras or groups of people "
    "nothing was measured: do so on your own before anything depends on it."
)


def describe(classifier: Classifier, path: pathlib.Path, form: str, contract: Record, licence: str | None) -> Record:
    """The card of an artifact that has been written: its sections by name, each a mapping of names to plain values.

    Args:
      classifier: what was exported.
      path: the artifact.
      form: its format, in words.
      contract: the sections "input" and "output".
      licence: of the weights, as the user states it.

    Raises:
      InputError: the records of the run are damaged.
    """
    layers = summary.layers(classifier.model, classifier.image_size)
    return {
        "version": schema.VERSION,
        "artifact": {"file": path.name, "format": form, "bytes": path.stat().st_size, "sha256": file_sha256(path)},
        "network": {
            "name": as_words(classifier.run.config),
            "parameters": sum(layer.parameters for layer in layers),
            "multiply_adds_per_image": sum(layer.macs for layer in layers),
            "classes": list(classifier.classes),
        },
        **contract,
        **_provenance(classifier),
        "exported_by": environment.versions() | {"commit": environment.commit()},
        "licence": {"weights": licence, "code_of_jresnet": "Apache-2.0"},
        "use": {
            "intended": "telling the classes above apart, in images that come from where the training images came from",
            "limits": LIMITS,
        },
    }


def inside(classifier: Classifier) -> Record:
    """Input and output of a program that normalises by itself."""
    run, (height, width) = classifier.run, classifier.image_size
    training = f" as in training, by --resize {run.config.resize}" if run.config.image_size else ""
    return {
        "input": {
            "shape": f"[n, {height}, {width}, 3]: n images of {height} rows, {width} columns and red, green, blue",
            "dtype": "uint8, from 0 to 255",
            "other_sizes": f"are refused: resize{training} before",
            "normalisation": "inside: (pixel / 255 - mean) / std",
            "mean": list(run.mean),
            "std": list(run.std),
        },
        "output": {
            "shape": f"[n, {len(run.classes)}]",
            "dtype": "float32",
            "meaning": "probabilities of the classes, in their order; those of an image sum to 1",
        },
    }


def outside(classifier: Classifier) -> Record:
    """Input and output of the network in PyTorch that weights alone are for."""
    contract, (height, width) = inside(classifier), classifier.image_size
    contract["input"] |= {
        "shape": f"[n, 3, {height}, {width}]: n images of red, green, blue, {height} rows and {width} columns",
        "dtype": "float32, normalised",
        "normalisation": "to be done before: (pixel / 255 - mean) / std, for pixels from 0 to 255",
    }
    contract["output"]["meaning"] = "logits of the classes, in their order; their softmax are the probabilities"
    return contract


def _provenance(classifier: Classifier) -> Record:
    """The sections "data", "figures" and "training"."""
    run, source, step = classifier.run, classifier.source, classifier.step
    if source is None or step is None or run.experiment == CONVERTED:
        origin = {"source": source.name, "sha256": file_sha256(source)} if source and source.is_file() else {}
        return {"data": {"note": UNKNOWN}, "figures": {"note": UNKNOWN}, "training": {"note": UNKNOWN} | origin}
    return {
        "data": {**run.dataset, "name": without_folders(run.dataset["name"])},
        "figures": _figures(run, source, step),
        "training": _training(run, source, step),
    }


def _figures(run: Run, directory: pathlib.Path, step: int) -> Record:
    """What the weights after `step` updates reach, from the record of the epoch that ended with them."""
    epochs, within = divmod(step, _steps_per_epoch(run))
    records = read_metrics(directory / METRICS)[:epochs]
    if within or not epochs or len(records) < epochs:
        return {"note": f"none: the weights are from within epoch {epochs}, not from its end"}
    # Averages are evaluated, but the train figures are those of the weights that they are the averages of.
    splits = ("train", "validation", "test") if run.config.ema_decay is None else ("validation", "test")
    names = [f"{split}_{name}" for split in splits for name in ("loss", "accuracy")]
    return {"of": f"these weights, after epoch {epochs - 1}, counted from 0"} | {
        name: records[-1][name] for name in names if records[-1].get(name) is not None
    }


def _training(run: Run, directory: pathlib.Path, step: int) -> Record:
    """How far the run got, with what, and the options on which its result depends."""
    made: Record = {"jresnet": run.jresnet}
    if finished := (directory / run_directory.RESULT).exists():
        result = run_directory.read_result(directory)
        made = {"device": result.device, **result.versions, "commit": result.commit}
    planned = run.config.epochs * _steps_per_epoch(run)
    state = "finished" if finished else "not finished"
    progress = {"experiment": run.experiment, "seed": run.seed, "run": state, "updates": f"{step:,} of {planned:,}"}
    options = {name: value for name, value in identity(run.config).items() if value is not None}
    return progress | made | options


def _steps_per_epoch(run: Run) -> int:
    return run.config.steps_per_epoch(run.dataset["train"])


def markdown(card: Record) -> str:
    """The card as a page of Markdown: a heading and a table for each section."""
    sections = {name: section for name, section in card.items() if isinstance(section, Mapping)}
    parts = [f"# {escaped(_on_a_line(card['artifact']['file']))}\n"]
    for name, section in sections.items():
        rows = [{"field": _words(field), "value": _shown(value)} for field, value in section.items()]
        table = Table([text("", "field"), text("", "value")], rows)
        parts.append(f"## {_words(name).capitalize()}\n\n{table.markdown()}")
    return "\n".join(parts)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    """A plain value, or several, for a reader."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return "not stated" if value is None else _on_a_line(value)


def _on_a_line(name: str) -> str:
    return listed([name], 1, longest=None)
