"""`jresnet train`: train one network on any data set."""

import dataclasses
import pathlib
from typing import ClassVar

import jax

from jresnet.cli.options import command_line
from jresnet.cli.program import make_console
from jresnet.cli.runs import ConfigOptions, check_workdir, default_directory, resumable
from jresnet.parallel import distributed
from jresnet.parallel.distributed import ProcessOptions
from jresnet.records.files import local_path
from jresnet.records.result import Result
from jresnet.records.run_directory import BEST
from jresnet.rules import require
from jresnet.train import loop

EXPERIMENT = "train"
"""The name of such runs in their records."""


@dataclasses.dataclass(frozen=True)
class Options(ProcessOptions, ConfigOptions):
    """Train one network, evaluate it after every epoch, and record everything in a directory."""

    GROUP: ClassVar = "record"

    seed: int = 0
    """Decides initial weights, validation split, order and augmentation; from 0 to 4294967295."""
    workdir: str | None = None
    """Directory of the run (default: the first free of runs/train, runs/train-2, ...)."""
    resume: bool = False
    """Continue in --workdir, or in the latest default directory; a finished run is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "seed", 0 <= self.seed < 2**32, "must lie from 0 to 2**32 - 1")
        check_workdir(self)


def run(options: Options) -> None:
    """Train the network and print what it reached."""
    distributed.initialize(options)
    given = options.workdir
    rule = "must be given where several processes train a run, which would choose different directories"
    require(options, "workdir", given is not None or jax.process_count() == 1, rule, value="")
    workdir = local_path(given, "--workdir") if given else default_directory(EXPERIMENT, options.resume)
    console = make_console(quiet=not distributed.is_primary())
    dataset = options.load(console)
    again = dataclasses.replace(options, workdir=str(workdir), resume=True)
    with resumable(command_line("jresnet train", again)):
        result = loop.fit(
            options.config, dataset, workdir,
            seed=options.seed, experiment=EXPERIMENT, resume=options.resume, console=console,
        )  # fmt: skip
    console.out(summary(result, workdir), highlight=False)


def summary(result: Result, workdir: pathlib.Path) -> str:
    """What a finished run has reached, after which epoch, and where it is."""
    split = "test" if result.test_accuracy is not None else "validation"
    accuracy = f"{split} accuracy {getattr(result, f'{split}_accuracy'):.2%} of {result.dataset[split]:,} images"
    lines = [f"{workdir}: {accuracy} after the last epoch, {result.parameters:,} parameters, {result.seconds:.1f} s"]
    if result.best_epoch is not None:
        test = f"test images not evaluated (jresnet evaluate {workdir / BEST})"  # by --test-after
        if result.best_test_accuracy is not None:
            test = f"test accuracy {result.best_test_accuracy:.2%}"
        best = f"{result.best_validation_accuracy:.2%}, {test}"
        lines.append(f"{workdir}/{BEST}: of epoch {result.best_epoch}, the best on validation: {best}")
    return "\n".join(lines)
