"""Whole epochs of the library's own training, timed.

An epoch's time covers planning its order and augmentations, the steps, and waiting for the last one. Compilation,
initial weights and copying the images to the device are set-up, timed separately; no checkpoint is written.
"""

import signal
import time
from pathlib import Path
from typing import Any

from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.data.pipeline import Statistics
from jresnet.parallel.devices import Devices
from jresnet.records.log import RunLog
from jresnet.train import loop
from jresnet.train.signals import Flag


class Stopwatch:
    """A training run before its first epoch, with everything compiled but the program of a last, smaller batch.

    Args:
      config: the configuration.
      dataset: the data, validation images already held out.
      seed: the run's seed.
      statistics: mean and standard deviation of the channels.

    Attributes:
      training: the run.
      setup_seconds: time spent outside of epochs so far.
    """

    def __init__(self, config: Config, dataset: Dataset, seed: int, statistics: Statistics):
        started = time.perf_counter()
        self.training = loop.prepare(config, dataset, seed, Devices(config), statistics)
        self._log = RunLog(Path(), epochs=config.epochs, steps_per_epoch=self.training.steps, writes=False)
        self.training.start()
        # A raised flag ends the epoch after its first call, which compiles.
        raised = Flag()
        raised.signal = signal.SIGINT
        self.training.train_epoch(0, self._log, raised)
        self.training.start()
        self.setup_seconds = time.perf_counter() - started

    def epoch(self, epoch: int, flag: Flag) -> float:
        """Train for an epoch, or until the flag is raised; then `training.asked` is set.

        Returns:
          Seconds, without compilation.

        Raises:
          Diverged: a loss was not finite.
        """
        started, compiled = time.perf_counter(), self.training.compile_seconds
        self.training.train_epoch(epoch, self._log, flag)
        compilation = self.training.compile_seconds - compiled
        self.setup_seconds += compilation
        return time.perf_counter() - started - compilation

    def memory(self) -> dict[str, int]:
        """Bytes that the training program needs at once, as planned by XLA; `aliased` outputs reuse arguments."""
        training: Any = self.training
        work = next(training.source.epoch(0, 0, lambda left: 1))
        program = training.program.lower(training.state, training.sums, work.arrays, work.first, work.last)
        plan = program.compile().memory_analysis()
        kinds = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporary": "temp"}
        sizes = {name: int(getattr(plan, f"{kind}_size_in_bytes")) for name, kind in kinds.items()}
        return sizes | {"total": sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporary"]}
