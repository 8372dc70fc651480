"""`Epoch`: a finished epoch of a run, as a line of `metrics.jsonl` holds it."""

import dataclasses
import os
import pathlib

from jresnet.errors import InputError
from jresnet.records import schema
from jresnet.records.files import Record, parse_json
from jresnet.records.schema import Count, Fraction, NonNegative

METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epoch:
    """A finished epoch, a line of `metrics.jsonl`; losses are mean cross-entropies in nats, accuracies shares."""

    epoch: Count
    """counted from 0"""
    train_loss: NonNegative
    """average over the epoch as it was trained, on augmented images"""
    train_accuracy: Fraction
    """likewise"""
    validation_loss: NonNegative | None = None
    """of the parameters after the epoch, if there are validation images"""
    validation_accuracy: Fraction | None = None
    """likewise"""
    test_loss: NonNegative | None = None
    """of the parameters after the epoch; every test image counts once"""
    test_accuracy: Fraction | None = None
    """likewise"""
    test_accuracy_batch_mean: Fraction | None = None
    """mean of the accuracies of test batches of the training batch's size, as the report computed it"""
    learning_rate: NonNegative
    """at the end of the epoch"""
    images_per_second: NonNegative
    """training images over the seconds of training"""
    seconds: NonNegative
    """training and evaluation"""


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
