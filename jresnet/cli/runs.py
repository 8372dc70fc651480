"""What the programs that train share: their options, the directories of their runs, and how they stop."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import rich.console

from jresnet.config import Config
from jresnet.data.datasets import Dataset, load_dataset
from jresnet.errors import Interrupted
from jresnet.rules import require


@dataclasses.dataclass(frozen=True)
class SubsetOptions:
    """How much of the data is used."""

    GROUP: ClassVar = "data"

    train_images: int | None = None
    """Use only this many training images, the same share of every class."""
    test_images: int | None = None
    """Use only this many test images, the same share of every class."""


@dataclasses.dataclass(frozen=True)
class ConfigOptions(SubsetOptions, Config):
    """A configuration as command-line options, and the size of its data."""

    @property
    def config(self) -> Config:
        """The configuration alone."""
        return Config(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Config)})

    def load(self, console: rich.console.Console | None = None) -> Dataset:
        """The data set, as far as it is used."""
        return load_dataset(self, console=console).subset(self.train_images, self.test_images)


def check_workdir(options: Any) -> None:
    """Raise InputError if the field `workdir` of these options is empty: neither a directory nor the default."""
    require(options, "workdir", options.workdir != "", "must name a directory: leave it out for the default", "''")


def default_directory(name: str, resume: bool) -> pathlib.Path:
    """The first free of runs/NAME, runs/NAME-2, ..., or to resume the last that is in use."""
    paths = [pathlib.Path("runs", name)]
    while paths[-1].exists():
        paths.append(pathlib.Path("runs", f"{name}-{len(paths) + 1}"))
    return paths[-2] if resume and len(paths) > 1 else paths[-1]


@contextlib.contextmanager
def resumable(line: str) -> Iterator[None]:
    """Add to an interruption the command line that resumes what it stopped."""
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {line}", stop.signal) from None
