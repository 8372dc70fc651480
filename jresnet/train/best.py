"""The checkpoint of the best epoch on the validation images, which a run may keep beside its latest ones."""

import logging
from collections.abc import Sequence

from jresnet.config import Config, require
from jresnet.data.datasets import Dataset
from jresnet.records.epoch import best_epoch
from jresnet.records.files import Record
from jresnet.records.run_directory import BEST
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.trainer import Trainer

_log = logging.getLogger(__name__)


def check_validation(config: Config, dataset: Dataset) -> None:
    """Raise InputError if the best epoch is to be kept and there are no validation images by which to choose it."""
    rule = "there are no validation images: hold some out with --validation N"
    require(config, "keep_best", config.keep_best is None or len(dataset.validation) > 0, rule)


def begin(best: Checkpoints, trainer: Trainer, history: Sequence[Record]) -> None:
    """Set aside checkpoints of epochs that the run, which goes on from where `trainer` is, is about to train again.

    A warning says so, and if the checkpoint of the best epoch in `history` is gone. A collective.
    """
    if later := [step for step in best.steps() if step > trainer.step]:
        _log.warning(f"{BEST}/: has a checkpoint later than the one to go on from: it is set aside")
        best.set_aside(later)
    epoch = best_epoch(history)
    # The latest checkpoint's own epoch, which is evaluated again, may have replaced the best before it.
    if epoch is not None and not {(epoch + 1) * trainer.steps_per_epoch, trainer.step} & {*best.steps()}:
        _log.warning(f"{BEST}/: the checkpoint of epoch {epoch}, the best so far, is gone: restore it from a copy")


def keep(best: Checkpoints, checkpoints: Checkpoints, trainer: Trainer, history: Sequence[Record]) -> None:
    """Save the state after the last epoch of `history` in place of the best one before, if it is better. A collective.

    It is among the run's own checkpoints first: a killed run goes on from there or later, not from before, where the
    best one is another that would be lost.
    """
    if best_epoch(history) == trainer.epoch:
        trainer.save(checkpoints, history[:-1])
        checkpoints.wait()
        trainer.save(best, history[:-1])
