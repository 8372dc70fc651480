"""Shared by the experiments' programs: options, the small scale of --quick, and how they stop."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from jresnet import cli
from jresnet.cli.runs import ConfigOptions, check_workdir
from jresnet.config import Config
from jresnet.records.files import local_path
from jresnet.rules import flag, require, switch

MAX_RUNS = 10_000
"""Of one command, which checks every run before it trains the first."""
MAX_PROCESSES = 256
"""At once on one device; NVIDIA's MPS lets 48 share a GPU."""

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
class SeedFields:
    """How often a configuration is trained; see `check_seeds`."""

    GROUP: ClassVar = "record"

    seeds: int = 1
    """Number of runs, at most 10,000, with seeds from --first-seed on."""
    first_seed: int = 0
    """Seed of the first run."""


@dataclasses.dataclass(frozen=True)
class ProgramFields:
    """What every program of runs has: a small scale, and where the runs are; see `check_workdir` and `directory_of`."""

    GROUP: ClassVar = "record"

    quick: bool = False
    """Run at a small scale on synthetic data; options given explicitly still apply."""
    workdir: str | None = None
    """Directory of the runs, in which they also resume (default: one below runs/ with the program's name)."""


@dataclasses.dataclass(frozen=True)
class SeedOptions(SeedFields, ConfigOptions):
    """A configuration that is trained with several seeds."""

    def __post_init__(self):
        super().__post_init__()
        check_seeds(self)


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Options with these values as words of a command line."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(switch(name, value))
        else:
            words += [flag(name), *map(str, value if isinstance(value, list | tuple) else (value,))]
    return words


@dataclasses.dataclass(frozen=True)
class RunsOptions(ProgramFields, ConfigOptions):
    """How a program trains its runs, which share a directory."""

    GROUP: ClassVar = "record"

    processes: int = 1
    """Runs to train at once on one device, each in a process of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_processes(self)
        check_workdir(self)


def directory_of(options: Any, name: str) -> pathlib.Path:
    """The field `workdir` of these options, or the default directory of a program of this name."""
    return local_path(options.workdir or f"runs/{name}{'-quick' if options.quick else ''}", "--workdir")


def check_seeds(options: Any) -> None:
    """Raise InputError unless the fields `seeds` and `first_seed` of these options are valid."""
    require(options, "seeds", options.seeds >= 1, "must be at least 1")
    check_runs(options, "seeds", options.seeds)
    fit = 0 <= options.first_seed <= 2**32 - options.seeds
    require(options, "first_seed", fit, "seeds must lie from 0 to 2**32 - 1")


def seeds_of(options: Any) -> range:
    """The seeds that the fields `seeds` and `first_seed` of these options mean."""
    return range(options.first_seed, options.first_seed + options.seeds)


def check_runs(options: Any, name: str, runs: int) -> None:
    """Raise InputError if the field `name` of these options makes more runs than one command may have."""
    rule = f"makes {runs:,} runs, and one command may have at most {MAX_RUNS:,}: lower it, or use several commands"
    require(options, name, runs <= MAX_RUNS, rule)


def check_processes(options: Any) -> None:
    """Raise InputError unless the field `processes` of these options is valid and goes with `parallel`."""
    require(options, "processes", options.processes >= 1, "must be at least 1")
    require(options, "processes", options.processes <= MAX_PROCESSES, f"must be at most {MAX_PROCESSES}")
    one = options.processes == 1 or options.parallel != "pmap"
    require(options, "processes", one, "each process trains on one device: leave out --parallel pmap")


Options = TypeVar("Options", bound=ConfigOptions)


def parse(
    program: str,
    config: Config,
    arguments: Sequence[str],
    kind: type[Options],
    quick: Mapping[str, Any] = types.MappingProxyType({}),
) -> Options:
    """Options of a program that start from a configuration, or with --quick from its small scale.

    `quick` has further values of that scale, of any of the options.
    """
    default = kind(**vars(config))
    if "--quick" in arguments:
        default = dataclasses.replace(default, **QUICK | dict(quick))
    return cli.parse(kind, arguments, program, default)
