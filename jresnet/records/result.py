"""`Result`: the result of a run, as `result.json` holds it."""

import dataclasses

from jresnet.records import schema
from jresnet.records.environment import Execution
from jresnet.records.files import Record
from jresnet.records.run import ConfigJson, DataJson
from jresnet.records.schema import Count, Fraction, NonNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run, the content of `result.json`; losses are mean cross-entropies in nats, accuracies shares."""

    experiment: str
    """its name in records"""
    config: ConfigJson
    """the configuration"""
    seed: Count
    """the run's seed"""
    parameters: Count
    """trainable parameters, those that `--freeze` keeps included"""
    epochs: Count
    """epochs trained"""
    train_loss: NonNegative
    """average over the last epoch as it was trained, on augmented images; with class weights, see metrics.jsonl"""
    train_accuracy: Fraction
    """likewise"""
    validation_loss: NonNegative | None = None
    """of the final parameters, if there are validation images"""
    validation_accuracy: Fraction | None = None
    """likewise"""
    test_loss: NonNegative | None = None
    """of the final parameters; every test image counts once"""
    test_accuracy: Fraction | None = None
    """likewise"""
    test_accuracy_batch_mean: Fraction | None = None
    """mean of the accuracies of test batches of the training batch's size, as the report computed it"""
    best_epoch: Count | None = None
    """that of the highest validation accuracy, the earliest of equal ones, if `best/` keeps its checkpoint"""
    best_validation_loss: NonNegative | None = None
    """of the parameters after the best epoch, not the final ones"""
    best_validation_accuracy: Fraction | None = None
    """likewise; the best epoch was chosen by it"""
    best_test_loss: NonNegative | None = None
    """of the parameters after the best epoch, on test images, which had no part in the choice"""
    best_test_accuracy: Fraction | None = None
    """likewise"""
    dataset: DataJson
    """name, numbers of images and classes, and the sha256 of all pixels and labels"""
    device: str
    """the devices, in words"""
    execution: Execution | None = None
    """how the run was computed last, on which its bits depend; absent in records without a version"""
    versions: dict[str, str]
    """of Python, of the packages that decide a result, and on a GPU of its driver and cuDNN"""
    commit: str | None
    """of the source tree when the run began, with `-dirty` if tracked files differed; `JRESNET_COMMIT` overrides it"""
    seconds: NonNegative
    """spent on epochs"""
    compile_seconds: NonNegative
    """spent on compilation besides"""
    images_per_second: NonNegative
    """median over the epochs"""

    def to_json(self) -> Record:
        """The result as `result.json` holds it, without metrics of splits that have no images."""
        return schema.to_json(self)

    @classmethod
    def from_json(cls, record: object, path: object) -> "Result":
        """The result in the content of a `result.json`.

        Raises:
          InputError: the record is not a result; the message names `path`.
        """
        return schema.parse(cls, record, path)
