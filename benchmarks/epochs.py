"""Whole epochs of the library's own training under a clock, and records that a later call goes on with.

The clock of an epoch covers all that an epoch costs: planning its order and augmentations, the steps, and waiting for
the last. Compilation, initial weights and carrying the images to the device are set-up, timed apart; no checkpoint is
written.
"""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import timing
from jresnet import loop, rundir
from jresnet.config import Config
from jresnet.datasets import Dataset
from jresnet.errors import InputError
from jresnet.interrupt import Flag
from jresnet.parallel import Devices
from jresnet.pipeline import Statistics
from jresnet.runlog import RunLog


class Stopwatch:
    """A training run at its beginning, everything compiled but the last, smaller batch's program.

    Args:
      config: the configuration.
      dataset: the data, validation images already held out.
      seed: of the run.
      statistics: mean and standard deviation of the channels.

    Attributes:
      training: the run.
      setup_seconds: spent on it outside of epochs, so far.
    """

    def __init__(self, config: Config, dataset: Dataset, seed: int, statistics: Statistics):
        started = time.perf_counter()
        self.training = loop.prepare(config, dataset, seed, Devices(config), statistics)
        self._log = RunLog(Path(), epochs=config.epochs, steps_per_epoch=self.training.steps, writes=False)
        self.training.start()
        # With the flag raised before, the epoch ends after its first call.
        raised = Flag()
        raised.signal = signal.SIGINT
        self.training.train_epoch(0, self._log, raised)
        self.training.start()
        self.setup_seconds = time.perf_counter() - started

    def epoch(self, epoch: int, flag: Flag) -> float:
        """Train on an epoch; if the flag is raised meanwhile, on a part of it, and `training.asked` says so.

        Returns:
          Seconds, compilation left out.

        Raises:
          Diverged: a loss was not finite.
        """
        started, compiled = time.perf_counter(), self.training.compile_seconds
        self.training.train_epoch(epoch, self._log, flag)
        compilation = self.training.compile_seconds - compiled
        self.setup_seconds += compilation
        return time.perf_counter() - started - compilation


# Of an environment, what makes measurements of two calls one record.
_SAME = ("device", "cores", "versions", "commit")


def open_record(path: Path | None, record: dict[str, Any], resume: bool, kept: Sequence[str]) -> dict[str, Any]:
    """The record to fill, on disk if it has a path.

    Args:
      path: its file.
      record: a new one: benchmark, options, environment, and what else must agree.
      resume: go on with the record that the file holds.
      kept: names of what has been measured, taken over from that record.

    Raises:
      InputError: there is something in the file and it is not to be gone on with, or it is of another measurement, or
        unreadable, or the file cannot be written.
    """
    if resume and path is None:
        raise InputError("--resume: goes on with the record in --output: name it")
    if path is not None and path.exists():
        if not resume:
            raise InputError(f"--output {path}: is there already: add --resume to go on with it, or choose another")
        found = rundir.read_json(path)
        for name, old, new in _differences(found, record):
            raise InputError(f"--output {path}: holds another measurement ({name} {old}, not {new}): choose another")
        record = record | {name: found[name] for name in kept if name in found}
    if path is not None:
        timing.write_record(path, record)
    return record


def _differences(found: dict[str, Any], record: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What sets two records' measurements apart: name, the old value, the new one."""

    def flat(one: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {name: one.get(name) for name in ("benchmark", "dataset")}
        values |= {name: (one.get("environment") or {}).get(name) for name in _SAME}
        return values | (one.get("options") or {})

    old, new = flat(found), flat(json.loads(json.dumps(record)))
    return [(name, old.get(name), new.get(name)) for name in {**new, **old} if old.get(name) != new.get(name)]
