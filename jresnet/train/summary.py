"""What a run records: of a finished epoch, and in the end as its result."""

import math
import statistics
from collections.abc import Mapping, Sequence

from jresnet.data.datasets import Dataset
from jresnet.errors import Diverged
from jresnet.records import environment
from jresnet.records.epoch import METRIC_PREFIXES, Epoch, best_figures
from jresnet.records.files import Record
from jresnet.records.result import Result
from jresnet.train.evaluate import Outputs, summarise
from jresnet.train.trainer import Trainer


def epoch_record(
    trainer: Trainer, dataset: Dataset, epoch: int, outputs: Mapping[str, Outputs], eval_seconds: float
) -> Epoch:
    """The record of a finished epoch; raises Diverged if one of its losses is not finite."""
    train_loss, train_accuracy = trainer.epoch_metrics()
    if not math.isfinite(train_loss):  # finite losses of steps may have an infinite sum
        raise Diverged(f"the train loss is not finite over epoch {epoch}: lower --learning-rate")
    metrics: dict[str, float] = {}
    for name, output in outputs.items():
        correct = output.predictions == getattr(dataset, name).labels
        loss, accuracy, batch_mean = summarise(output.losses, correct, trainer.run.config.batch_size)
        if not math.isfinite(loss):
            raise Diverged(f"the {name} loss is not finite after epoch {epoch}: lower --learning-rate")
        metrics |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        if name == "test":
            metrics["test_accuracy_batch_mean"] = batch_mean
    return Epoch(
        epoch=epoch,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        **metrics,
        learning_rate=trainer.learning_rate(epoch),
        images_per_second=trainer.images / trainer.seconds,
        seconds=trainer.seconds + eval_seconds,
    )


def summarise_run(trainer: Trainer, history: Sequence[Record], commit: str | None) -> Result:
    """The result of a finished run, with the metrics of its last epoch, and of its best one if that is kept."""
    record: Record = trainer.run.to_json()
    metrics = {name: value for name, value in history[-1].items() if name.startswith(METRIC_PREFIXES)}
    return Result(
        **{name: record[name] for name in ("experiment", "config", "seed", "dataset")},
        **metrics,
        **(best_figures(history) if trainer.run.config.keep_best else {}),
        initial_weights=trainer.run.initial_weights,
        parameters=trainer.parameters,
        epochs=len(history),
        device=environment.device(),
        execution=trainer.devices.execution,
        versions=environment.versions(),
        commit=commit,
        seconds=sum(record["seconds"] for record in history),
        compile_seconds=trainer.compile_seconds + trainer.evaluator.compile_seconds,
        compile_cache=trainer.compile_cache,
        images_per_second=statistics.median(record["images_per_second"] for record in history),
        resumed=trainer.resumed,
    )
