"""`Result`: the result of a run, as `result.json` holds it."""

import dataclasses
import pathlib

from jresnet.errors import InputError
from jresnet.records.files import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run, the content of `result.json`.

    Losses are mean cross-entropies in nats, accuracies fractions of images from 0 to 1. `train_*` are averages over the
    last epoch while it was trained, on augmented images; `test_*` and `validation_*` are those of the final parameters,
    every image counted once. `test_accuracy_batch_mean` averages the accuracies of test batches of the training batch
    size, as the report did. `seconds` is the time spent on epochs, without `compile_seconds`.
    """

    experiment: str
    config: Record
    seed: int
    parameters: int
    epochs: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_accuracy_batch_mean: float | None = None
    dataset: Record
    device: str
    versions: dict[str, str]
    commit: str | None
    seconds: float
    compile_seconds: float
    images_per_second: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    def to_json(self) -> Record:
        """The result as `result.json` holds it, without metrics of splits that have no images."""
        return {name: value for name, value in vars(self).items() if value is not None or name == "commit"}

    @classmethod
    def from_json(cls, record: Record, path: pathlib.Path) -> "Result":
        """The result in the content of a `result.json`.

        Raises:
          InputError: fields are missing or unknown; the message names `path`.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise InputError(
                f"{path}: not the result of a run ({error}): choose another directory, or delete the file"
            ) from None
