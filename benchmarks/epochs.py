"""Whole epochs of the library's own training, timed.

An epoch's time covers planning its order and augmentations, the steps, and waiting for the last one. Compilation,
initial weights and copying the images to the device are set-up, timed separately; no checkpoint is written.
"""

import signal
import time
from pathlib import Path
from typing import Any

import jax

from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.parallel.devices import Devices
from jresnet.records.log import RunLog
from jresnet.train import loop
from jresnet.train.signals import StopSignal
from jresnet.train.trainer import Trainer


class Stopwatch:
    """A training run before its first epoch, with everything compiled but the program of a last, smaller batch.

    Validation images are held out of the data set already. `setup_seconds` is the time spent outside of epochs so far.
    """

    def __init__(self, config: Config, dataset: Dataset, seed: int):
        started = time.perf_counter()
        run = loop.describe(config, dataset, dataset.sha256, seed, "benchmark")
        self.trainer = Trainer(run, dataset.train, Devices(config))
        self._log = RunLog(Path(), epochs=config.epochs, steps_per_epoch=self.trainer.steps_per_epoch, writes=False)
        self.trainer.start()
        # A stop signal ends the epoch after its first call, which compiles.
        raised = StopSignal()
        raised.number = signal.SIGINT
        self.trainer.train_epoch(0, self._log, raised)
        self.trainer.start()
        jax.block_until_ready(self.trainer.state)
        self.setup_seconds = time.perf_counter() - started

    def epoch(self, epoch: int, received: StopSignal) -> float:
        """Train for an epoch, or until a stop signal is received; then `trainer.stop_signal` is set.

        Returns the seconds without compilation; raises Diverged if a loss was not finite.
        """
        started, compiled = time.perf_counter(), self.trainer.compile_seconds
        self.trainer.train_epoch(epoch, self._log, received)
        compilation = self.trainer.compile_seconds - compiled
        self.setup_seconds += compilation
        return time.perf_counter() - started - compilation

    def memory(self) -> dict[str, int]:
        """Bytes that the training program needs at once, as planned by XLA; `aliased` outputs reuse arguments."""
        trainer: Any = self.trainer
        chunk = next(trainer.source.epoch(0, 0, lambda left: 1))
        program = trainer.program().lower(trainer.state, trainer.metrics, *chunk)
        plan = program.compile().memory_analysis()
        kinds = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporary": "temp"}
        sizes = {name: int(getattr(plan, f"{kind}_size_in_bytes")) for name, kind in kinds.items()}
        return sizes | {"total": sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporary"]}
