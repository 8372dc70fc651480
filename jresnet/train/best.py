"""The checkpoint of the best epoch on the validation images, which a run may keep beside its latest ones."""

import logging
from collections.abc import Sequence

from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.parallel import distributed
from jresnet.records.epoch import best_epoch
from jresnet.records.files import Record
from jresnet.records.run_directory import BEST
from jresnet.rules import require
from jresnet.train.checkpoint import Checkpoints
from jresnet.train.trainer import Trainer

_log = logging.getLogger(__name__)


def check_validation(config: Config, dataset: Dataset) -> None:
    """Raise InputError if there are no validation images by which to choose the best epoch, or anything at all."""
    rule, some = "there are no validation images: hold some out with --validation N", len(dataset.validation) > 0
    require(config, "keep_best", config.keep_best is None or some, rule)
    require(config, "test_after", config.test_after != "never" or some, rule)


def begin(best_checkpoint: Checkpoints, trainer: Trainer, history: Sequence[Record]) -> None:
    """Set aside all but the checkpoint of the best epoch before the run, which goes on from where `trainer` is.

    Others are of epochs that are trained again, or were about to be deleted when the run was killed. A warning says so,
    and if the checkpoint of the best epoch in `history` is gone. A collective.
    """
    saved, epoch = best_checkpoint.steps(), best_epoch(history)
    # The latest checkpoint's own epoch, which is evaluated again, may have replaced the best before it.
    best_step = trainer.step if trainer.step in saved or epoch is None else (epoch + 1) * trainer.steps_per_epoch
    others = [step for step in saved if step != best_step]
    # Before any process moves one: each has listed the directory by itself.
    if distributed.process_max([bool(others)]) == [1.0]:
        _log.warning(f"{BEST}/: checkpoints of other epochs than the best one so far are set aside")
        best_checkpoint.set_aside(others)
    if epoch is not None and best_step not in saved:
        _log.warning(
            f"{BEST}/: the checkpoint of epoch {epoch}, the best so far, is gone: restore it from a copy, or go on "
            "without it and use the last epoch, unless a later one is better"
        )


def keep(best_checkpoint: Checkpoints, checkpoints: Checkpoints, trainer: Trainer, history: Sequence[Record]) -> bool:
    """Save the state after the last epoch of `history` in place of the best one before, if it is better. A collective.

    It is among the run's own checkpoints first: a killed run goes on from there or later, not from before, where the
    best one is another that would be lost.

    Returns:
      Whether it was saved, among both.
    """
    if best_epoch(history) != trainer.epoch:
        return False
    trainer.save(checkpoints, history[:-1])
    checkpoints.wait()
    trainer.save(best_checkpoint, history[:-1])
    return True
