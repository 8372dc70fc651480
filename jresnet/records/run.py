"""`Run`: what a run's result and its predictions depend on, and whether two runs are the same."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.records import schema
from jresnet.records.files import Record
from jresnet.records.schema import Checked, Count, NonNegative
from jresnet.rules import as_typed, require

# Options that may change when a run is resumed: where data and initial weights, which their sha256 identifies, come
# from, how they reach the device, and how it computes the same function. How images are resized stays, for prediction.
# When test images are evaluated changes no weight, but stays: what config.json says of it must hold for all epochs.
CHANGEABLE = (
    "dataset", "data_dir", "image_size", "skip_unreadable", "test_from", "holdout_test", "input", "parallel",
    "channel_multiple", "init_from",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The data of a run; weights from elsewhere have a name only."""

    name: str
    """as in `--dataset`, or of the weights"""
    train: Count | None = None
    """images of the training split, without those held out"""
    validation: Count | None = None
    """images of the validation split, those held out included"""
    test: Count | None = None
    """images of the test split"""
    classes: Count | None = None
    """number of classes"""
    sha256: str | None = None
    """of the shapes, pixels and labels of all splits, before images were held out"""
    cut_from: str | None = None
    """sha256 of the data that these are a fold or a part of"""
    skipped: tuple[str, ...] | None = None
    """files that are not readable images, if the data were read without them"""

    def to_json(self) -> Record:
        """The data as records hold them."""
        return {name: value for name, value in vars(self).items() if value is not None}


def without_folders(dataset: str) -> str:
    """A data set's name, of `folder:` and `npz:` without the folders of this machine that its own is in."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}{colon}{pathlib.PurePath(path).name}"


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights that a run has started from."""

    name: str
    """of the run's directory or the file that they were read from"""
    sha256: str
    """of the names, dtypes, shapes and numbers of all arrays"""
    updates: Count | None = None
    """after which a run had these weights; null for those of a file"""


DataJson = Annotated[Mapping[str, Any], Checked(Data)]
ConfigJson = Annotated[Mapping[str, Any], Checked(Config)]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, the content of `config.json`."""

    experiment: str
    """its name in records"""
    seed: Count
    """decides initial weights, validation split, order and augmentation"""
    config: Config
    """the configuration, with the network's own defaults filled in"""
    dataset: DataJson
    """the data"""
    classes: tuple[str, ...]
    """class names, in the order of the logits"""
    image_size: tuple[Count, Count]
    """height and width in pixels"""
    mean: tuple[NonNegative, ...]
    """mean of each colour channel of the training images, on a scale of 0 to 1"""
    std: tuple[NonNegative, ...]
    """standard deviation of each colour channel, on the same scale"""
    earlier_epochs: tuple[Count, ...] | None = None
    """the epochs that it was to have before their number was changed"""
    jresnet: str | None = None
    """the version of jresnet that began it"""
    initial_weights: Weights | None = None
    """those of `--init-from`; left out if it has started from random ones"""

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == 3 or 0 in self.std or max(*self.mean, *self.std) > 1:
            raise InputError("mean and std must be of 3 channels on a scale of 0 to 1, and no std 0")
        if len(self.classes) < 2 or 0 in self.image_size:
            raise InputError("there must be at least 2 classes, and images of at least 1 x 1")

    def to_json(self) -> Record:
        """The run as `config.json` holds it."""
        return schema.to_json(self)

    @property
    def fingerprint(self) -> str:
        """What tells the run from others in its checkpoints: a digest of all that `config.json` says of it."""
        # The same data may have several names.
        data = {name: value for name, value in self.dataset.items() if name not in ("name", "sha256", "skipped")}
        rest: tuple[Any, ...] = (self.seed, data, self.classes, self.image_size, self.mean, self.std)
        if self.initial_weights is not None:
            rest += (self.initial_weights.sha256,)
        content = json.dumps([digest(self.config, self.dataset.get("sha256", "")), *rest], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The `fingerprint`, and those of the time before its number of epochs was changed."""
        planned = (self.config.epochs, *reversed(self.earlier_epochs or ()))
        configs = (dataclasses.replace(self.config, epochs=epochs) for epochs in planned)
        return tuple(dataclasses.replace(self, config=config).fingerprint for config in configs)

    @classmethod
    def from_json(cls, record: object, path: object) -> "Run":
        """The run in the content of a `config.json`; options added after it was written get their defaults.

        Raises:
          InputError: the record is not a run's; the message names `path`.
        """
        return schema.parse(cls, record, path)


def config_from_json(values: Mapping[str, Any]) -> Config:
    """The configuration in a `config.json` or `result.json`; options added after it was written get their defaults.

    Raises:
      InputError: it has an option that this version does not know, or a value that this version refuses.
    """
    return schema.parse(Config, dict(values), "config")


def identity(config: Config) -> dict[str, Any]:
    """The options of a configuration on which a run's result depends."""
    return {name: value for name, value in vars(config).items() if name not in CHANGEABLE}


def digest(config: Config, sha256: str) -> str:
    """SHA-256 of the data's sha256 and of all options that affect the result and are not at their defaults.

    Defaults are left out so that an option added later does not change the digest of runs that do not use it.
    """
    defaults = identity(Config())
    options = {option: value for option, value in identity(config).items() if value != defaults[option]}
    return hashlib.sha256(json.dumps([options, sha256], sort_keys=True).encode()).hexdigest()


def is_replanned(config: Config, recorded: Config) -> bool:
    """Whether a configuration is the recorded one but for its epochs, of which both train the common ones alike.

    Raises:
      InputError: its learning rates depend on their number.
    """
    epochs = recorded.epochs
    if config.epochs == epochs or identity(config) != identity(recorded) | {"epochs": config.epochs}:
        return False
    rule = f"the run was to have {epochs}, and its {config.schedule} schedule depends on their number"
    remedy = "only with constant rates can it change: choose another directory to train anew"
    require(config, "epochs", config.schedule == "constant", f"{rule}: {remedy}")
    return True


def differences(record: Mapping[str, Any], config: Config, seed: int, sha256: str) -> list[str]:
    """How a recorded run differs from the one of these arguments, as in "width 8, not 42"; empty if they agree.

    `record` is the checked content of a `config.json` or `result.json`, `config` has its defaults filled in, and
    `sha256` is that of the data before validation images are held out.

    Raises:
      InputError: the record has an option that this version does not know.
    """
    recorded, expected = identity(config_from_json(record["config"])), identity(config)
    recorded |= {"seed": record.get("seed"), "data sha256": record["dataset"].get("sha256")}
    expected |= {"seed": seed, "data sha256": sha256}
    return [
        f"{name} {as_typed(recorded[name])}, not {as_typed(value)}"
        for name, value in expected.items()
        if recorded[name] != value
    ]
