"""The committed record of a run that was stopped for good before its last epoch."""

import dataclasses
import pathlib

from jresnet.errors import InputError
from jresnet.records import schema
from jresnet.records.epoch import Epoch
from jresnet.records.files import read_json
from jresnet.records.run import DataJson

STOPPED = pathlib.Path("experiments", "results", "final-h200-stopped.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stopped:
    """A run without its last epochs."""

    command: str
    """that made it"""
    planned: int
    """epochs that it was to have"""
    dataset: DataJson
    """the data"""
    device: str
    """the devices, in words"""
    versions: dict[str, str]
    """of Python, of the packages that decide a result, of the driver and cuDNN"""
    commit: str
    """of the source tree"""
    epochs: tuple[Epoch, ...]
    """as the run logged them"""

    @property
    def test_accuracy(self) -> float:
        """After the last of its epochs; InputError if the record lacks it."""
        accuracy = self.epochs[-1].test_accuracy if self.epochs else None
        if accuracy is None:
            raise InputError(f"{STOPPED}: its last epoch has no test accuracy: restore the file")
        return accuracy


def read_stopped(root: pathlib.Path) -> Stopped:
    """The record in a source tree; InputError if it is missing or damaged."""
    path = root / STOPPED
    return schema.parse(Stopped, read_json(path), path)
