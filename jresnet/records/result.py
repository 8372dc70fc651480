"""`Result`: the result of a run, as `result.json` holds it."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, ClassVar

from jresnet.errors import InputError
from jresnet.records import figures, schema
from jresnet.records.environment import CacheState, Execution
from jresnet.records.epoch import METRICS, read_metrics
from jresnet.records.files import Record, local_path
from jresnet.records.run import ConfigJson, DataJson, Weights
from jresnet.records.schema import Count, Fraction, NonNegative

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The result of a run, the content of `result.json`; losses are mean cross-entropies in nats, accuracies shares.

    Attributes:
      directory: of the run, where it is known, see `at`; no part of the record.
    """

    directory: ClassVar[pathlib.Path | None] = None
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
    """average over the last epoch, as in metrics.jsonl"""
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
    """of the parameters after the best epoch, on test images, if evaluated, which had no part in the choice"""
    best_test_accuracy: Fraction | None = None
    """likewise"""
    dataset: DataJson
    """name, numbers of images and classes, and the sha256 of all pixels and labels"""
    initial_weights: Weights | None = None
    """those of `--init-from`; left out if the run has started from random ones"""
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
    """spent on compilation besides, in the last session"""
    compile_cache: CacheState | None = None
    """JAX's cache of compiled programs when that session began: cold, without any; absent in older records"""
    images_per_second: NonNegative
    """median over the epochs"""
    resumed: bool | None = None
    """whether the last session went on from a checkpoint; absent in older records"""

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

    def __repr__(self) -> str:
        split = "test" if self.test_accuracy is not None else "train"
        reached = f"{split} accuracy {getattr(self, f'{split}_accuracy'):.2%}"
        return f"Result({self.title}: {reached} after {self.epochs} epochs in {self.seconds:,.0f} s)"

    @property
    def title(self) -> str:
        """Which run it is of, for figures."""
        network = f"width {self.config['width']}, {self.parameters:,} parameters"
        return f"{self.experiment}, seed {self.seed}: {network}, {self.dataset['name']}"

    def at(self, directory: pathlib.Path) -> "Result":
        """This result, of the run in a directory."""
        result = dataclasses.replace(self)
        object.__setattr__(result, "directory", directory)  # the fields, which are frozen, are the record's
        return result

    def plot(self, workdir: str | os.PathLike[str] | None = None) -> "Figure":
        """A figure of loss and accuracy of every split against the epoch, which a notebook shows as a value.

        Args:
          workdir: the run's directory; None: the one in which `fit` has trained it.

        Raises:
          InputError: the directory is not known, or has no record of the epochs.
        """
        directory = self.directory if workdir is None else local_path(workdir)
        if directory is None:
            raise InputError("plot: this result does not know where its run is: give workdir, the run's directory")
        return figures.draw_curves(read_metrics(directory / METRICS), self.title)
