"""What the experiments' programs share: options, the small scale of --quick, and how they stop."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from jresnet import cli
from jresnet.config import Config
from jresnet.errors import Interrupted

# A first look at an experiment: about a minute on two cores, on synthetic images.
QUICK: dict[str, Any] = {
    "dataset": "synthetic",
    "width": 8,
    "blocks": (1, 1, 1, 1),
    "learning_rate": 0.05,
    "epochs": 5,
    "batch_size": 64,
}


@dataclasses.dataclass(frozen=True)
class ConfigOptions(Config):
    """A configuration as command-line options, and those that every program adds."""

    train_images: int | None = None
    """Use only this many training images, the same share of every class."""
    test_images: int | None = None
    """Use only this many test images, the same share of every class."""
    quick: bool = False
    """Run at a small scale on synthetic data; other options still count."""

    @property
    def config(self) -> Config:
        """The configuration alone."""
        return Config(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Config)})


Options = TypeVar("Options", bound=ConfigOptions)


def parse(program: str, config: Config, arguments: Sequence[str], kind: type[Options]) -> Options:
    """Options of a program that start from a configuration, or with --quick from its small scale."""
    if "--quick" in arguments:
        config = dataclasses.replace(config, **QUICK)
    return cli.parse(kind, arguments, program, kind(**vars(config)))


@contextlib.contextmanager
def resumable(command: str) -> Iterator[None]:
    """Add to an interruption the command that resumes what it stopped."""
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {command}", stop.signal) from None
