"""Whole epochs of the library's own training under a clock.

The clock of an epoch covers all that an epoch costs: planning its order and augmentations, the steps, and waiting for
the last. Compilation, initial weights and carrying the images to the device are set-up, timed apart; no checkpoint is
written.
"""

import dataclasses
import signal
import time
from pathlib import Path

from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.data.pipeline import Statistics
from jresnet.parallel.devices import Devices
from jresnet.records.log import RunLog
from jresnet.train import loop
from jresnet.train.signals import StopSignal
from jresnet.train.trainer import Trainer


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
        run = loop.describe(config, dataset, dataset.sha256, seed, "benchmark")
        run = dataclasses.replace(run, mean=statistics[0], std=statistics[1])
        self.training = Trainer(run, dataset.train, Devices(config))
        self._log = RunLog(Path(), epochs=config.epochs, steps_per_epoch=self.training.steps_per_epoch, writes=False)
        self.training.start()
        # With the flag raised before, the epoch ends after its first call.
        raised = StopSignal()
        raised.number = signal.SIGINT
        self.training.train_epoch(0, self._log, raised)
        self.training.start()
        self.setup_seconds = time.perf_counter() - started

    def epoch(self, epoch: int, flag: StopSignal) -> float:
        """Train on an epoch; if the flag is raised meanwhile, on a part of it, and `training.stop_signal` says so.

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
