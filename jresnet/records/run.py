"""`Run`: what a run's result and its predictions depend on, and whether two runs are the same."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jresnet.config import Config, as_typed
from jresnet.errors import InputError

# Options that may change when a run is resumed: where the data come from, how they reach the device, and how it
# computes the same function. The data are identified by their sha256.
CHANGEABLE = ("dataset", "data_dir", "input", "parallel", "channel_multiple")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, the content of `config.json`.

    Attributes:
      experiment: its name in records.
      seed: decides initial weights, validation split, order and augmentation.
      config: the configuration, with the network's own defaults filled in (`models.fill_defaults`).
      dataset: name, sizes and sha256 of the data, see `data.datasets.dataset_record`.
      classes: class names, in the order of the logits.
      image_size: (height, width) in pixels.
      mean: mean of each colour channel of the training images, on a scale of 0 to 1.
      std: standard deviation of each colour channel, on the same scale.
    """

    experiment: str
    seed: int
    config: Config
    dataset: Mapping[str, Any]
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The run as `config.json` holds it."""
        return vars(self) | {"config": dict(vars(self.config)), "dataset": dict(self.dataset)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], path: object) -> "Run":
        """The run in the content of a `config.json`; options added after it was written get their defaults.

        Raises:
          InputError: the record is not a run's; the message names `path`.
        """
        try:
            values = {field.name: record[field.name] for field in dataclasses.fields(cls)}
            values |= {name: tuple(values[name]) for name in ("classes", "image_size", "mean", "std")}
            return cls(**values | {"config": config_from_json(record["config"]), "dataset": dict(record["dataset"])})
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not the record of a run ({error!r}): choose a run's directory") from None


def config_from_json(values: Mapping[str, Any]) -> Config:
    """The configuration in a `config.json` or `result.json`; options added after it was written get their defaults.

    Raises:
      TypeError: it has an option that this version does not know.
    """
    options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**options)


def identity(config: Config) -> dict[str, Any]:
    """The options of a configuration on which a run's result depends."""
    return {name: value for name, value in vars(config).items() if name not in CHANGEABLE}


def differences(record: Mapping[str, Any], config: Config, seed: int, sha256: str) -> list[str]:
    """How a recorded run differs from the one of these arguments, as in "width 8, not 42"; empty if they agree.

    `record` is the content of a `config.json` or `result.json`, `config` has its defaults filled in, and `sha256` is
    that of the data before validation images are held out.

    Raises:
      TypeError: the record has an option that this version does not know.
    """
    recorded, expected = identity(config_from_json(record["config"])), identity(config)
    recorded |= {"seed": record.get("seed"), "data sha256": record["dataset"].get("sha256")}
    expected |= {"seed": seed, "data sha256": sha256}
    return [
        f"{name} {as_typed(recorded[name])}, not {as_typed(value)}"
        for name, value in expected.items()
        if recorded[name] != value
    ]
