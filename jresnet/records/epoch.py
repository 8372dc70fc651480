"""`Epoch`: a finished epoch of a run, as a line of `metrics.jsonl` holds it."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from jresnet.errors import InputError
from jresnet.records import schema
from jresnet.records.files import Record, parse_json
from jresnet.records.schema import Count, Fraction, NonNegative

METRICS = "metrics.jsonl"
METRIC_PREFIXES = ("train_", "validation_", "test_")
"""How the names of the metrics in an epoch's record begin."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epoch:
    """A finished epoch, a line of `metrics.jsonl`; losses are mean cross-entropies in nats, accuracies shares."""

    epoch: Count
    """counted from 0"""
    train_loss: NonNegative
    """average over the epoch of what was minimised, augmentation, mixing, smoothing and class weights included"""
    train_accuracy: Fraction
    """of the same images; a mixed one is of the class with the larger share"""
    validation_loss: NonNegative | None = None
    """of the parameters after the epoch, if there are validation images"""
    validation_accuracy: Fraction | None = None
    """likewise"""
    test_loss: NonNegative | None = None
    """of the parameters after the epoch; every test image counts once; where `--test-after` says so"""
    test_accuracy: Fraction | None = None
    """likewise"""
    test_accuracy_batch_mean: Fraction | None = None
    """mean of the accuracies of test batches of the training batch's size, as the report computed it"""
    learning_rate: NonNegative
    """at the end of the epoch, of all layers that have no rate of their own"""
    images_per_second: NonNegative
    """training images over the seconds of training"""
    seconds: NonNegative
    """training and evaluation"""


def best_epoch(history: Sequence[Record]) -> int | None:
    """The epoch with the highest validation accuracy, the earliest of equal ones; None if no record has one."""
    accuracies = [record.get("validation_accuracy", -1.0) for record in history]
    best = max(accuracies, default=-1.0)
    return accuracies.index(best) if best >= 0 else None


def best_figures(history: Sequence[Record]) -> Record:
    """What a `result.json` says of the best epoch: which it is, and its figures on validation and test images."""
    epoch = best_epoch(history)
    if epoch is None:
        return {}
    names = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
    figures = {f"best_{name}": history[epoch][name] for name in names if name in history[epoch]}
    return {"best_epoch": epoch} | figures


def read_metrics(path: str | os.PathLike[str]) -> list[Record]:
    """Read the records of the epochs from a `metrics.jsonl`: those of epochs 0, 1, 2, ..., each a valid `Epoch`.

    An incomplete last line, left by a killed run and recognised by its missing line break, is skipped.

    Raises:
      InputError: the file is missing, or a line is not the record of its epoch.
    """
    try:
        lines = pathlib.Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); a run writes it when its first epoch starts"
        ) from None
    return [read_line(line, number, path) for number, line in enumerate(lines[:-1])]


def read_line(line: bytes, epoch: int, path: str | os.PathLike[str]) -> Record:
    """The record of an epoch, counted from 0, in its line of `metrics.jsonl`; `path` is for the message.

    Raises:
      InputError: the line is not the record of this epoch.
    """
    where = f"{path}, line {epoch + 1}"
    try:
        record: Record = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not one epoch's JSON object ({error}): restore the file") from None
    recorded = schema.parse(Epoch, record, where).epoch
    if recorded != epoch:
        raise InputError(f"{where}: is of epoch {recorded}, not {epoch}: restore the file")
    return record
