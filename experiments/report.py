"""What the report says, as data: its experiments, their settings, its figures and claims, and what it leaves open.

Decided here, once, where the report is silent or contradicts itself:

- Momentum 0.9 and weight decay 5e-4 hold in every experiment, the initial model included. Section 3.3.3 names them
  for the optimizer without saying since when; section 4.1 attributes the step from 0.80 to 0.87 to augmentation, and
  that comparison means something only if nothing else changed.
- Images are normalised by the training split's channel statistics. The report does not mention normalisation; its
  network does train at these rates either way, and the statistics make no choice of their own.
- Each sweep holds fixed what the report had at that point. Learning rate: batch 64, 64 channels, augmented, since the
  0.8755 of its row 0.01 is section 4.1's 0.875597 cut off. Batch size: rate 0.001 and 64 channels, as 42 comes later.
  Channels: rate 0.001 and batch 32. So some cells coincide: rate 0.001 with batch 64 (0.8865 and 0.8909 in the report),
  batch 32 with 64 channels (0.8965 and 0.8947), 42 channels with the final model (0.9057 and 0.9095). They are one
  configuration here, run once; the report's two figures for it show how far its single runs scatter.
- Blocks, kernel size and pooling are announced in section 4 without a table. They are varied around the final model.
- "Each block's output has a ReLU, except for the last block" (section 3.3.1): here every block has one, as in He et al.
  2015. ReLU has no parameters, so the report's count cannot tell.
- "64 had a higher accuracy" (section 4.2.2) stands beside a table and a conclusion that say 32: the table counts.
- The report's accuracies are means over batches: 0.868830 is 8730 / (157 x 64), 0.909545 is 9110 / (313 x 32). Its test
  accuracies are therefore compared with `test_accuracy_batch_mean`; its final batch, which it does not state, is 32.
- The budget of 5 million parameters binds the final model only; the sweeps visit networks that exceed it, as the
  report's own did. Where a study follows its own winners, the width is the best of those within the budget.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments.study.experiment import Experiment, Setting
from jresnet.config import Config

BUDGET = 5_000_000
"""Trainable parameters that the final model must stay below (section 4.3)."""

INITIAL = Config(
    width=64, blocks=(2, 2, 2, 2), kernel_size=3, pool_size=4, dropout=0.0,
    batch_size=64, learning_rate=0.01, epochs=100, crop_padding=0, flip=0.0, grayscale=0.0,
)  # fmt: skip
"""The table at the head of section 4."""

CROP_FLIP: dict[str, Any] = {"crop_padding": 4, "flip": 0.5}
GRAY: dict[str, Any] = {"grayscale": 0.5}
"""Section 3.2."""
AUGMENTED = dataclasses.replace(INITIAL, **CROP_FLIP, **GRAY)

LOG = (
    (83, 0.421626, 0.388598, 0.854020, 0.868830),
    (84, 0.424778, 0.420109, 0.853281, 0.860569),
    (85, 0.420801, 0.394663, 0.853780, 0.871915),
    (86, 0.426804, 0.369990, 0.852122, 0.878881),
    (87, 0.422587, 0.382377, 0.853121, 0.872412),
    (88, 0.418535, 0.412632, 0.855099, 0.864053),
    (89, 0.422710, 0.392807, 0.853621, 0.868033),
    (90, 0.420233, 0.408716, 0.854120, 0.865645),
    (91, 0.413701, 0.397749, 0.856318, 0.865147),
    (92, 0.418192, 0.375324, 0.854200, 0.876294),
    (93, 0.409316, 0.420673, 0.857377, 0.862361),
    (94, 0.414493, 0.405695, 0.856738, 0.865744),
    (95, 0.411580, 0.412007, 0.857317, 0.865744),
    (96, 0.417472, 0.381579, 0.855519, 0.874403),
    (97, 0.406402, 0.353913, 0.858816, 0.880076),
    (98, 0.406001, 0.380825, 0.859375, 0.873308),
    (99, 0.411478, 0.373297, 0.857836, 0.875597),
)
"""Section 4.1's log of the augmented model: epoch, train loss, test loss, train accuracy, test accuracy."""

COMPARED = "test_accuracy_batch_mean"
"""The figure that compares with the report's test accuracies: they are means over batches, as 8730 / (157 x 64)."""


@dataclass(frozen=True)
class Choices:
    """What a sweep takes over from those before it; by default what the report went on with (section 4.2)."""

    learning_rate: float = 0.001
    batch_size: int = 32
    width: int = 42


DECIDES = ("learning_rate", "batch_size", "width")
"""The sweeps whose outcome later experiments build on, in their order; each decides the option of its name."""

REPORTED_CHOICES = Choices()


def final(choices: Choices = REPORTED_CHOICES) -> Config:
    """The final model (section 4.3), or what it is by other choices."""
    return dataclasses.replace(AUGMENTED, budget=BUDGET, **dataclasses.asdict(choices))


def experiments(choices: Choices = REPORTED_CHOICES) -> tuple[Experiment, ...]:
    """Every experiment in the report's order; those after a sweep build on its choice."""
    around = dataclasses.replace(final(choices), budget=None)
    batches = dataclasses.replace(AUGMENTED, learning_rate=choices.learning_rate)
    widths = dataclasses.replace(batches, batch_size=choices.batch_size)
    columns = ("epoch", "train_loss", "test_loss", "train_accuracy", COMPARED)
    log = [dict(zip(columns, line, strict=True)) for line in LOG]
    return (
        Experiment(
            "initial", "4", "Initial model", None, (Setting("initial", INITIAL),),
            {"initial": {COMPARED: 0.808}}, (), None,
        ),
        Experiment(
            "augmentation", "4.1", "Data augmentation", None,
            (Setting("none", INITIAL), Setting("crop + flip + grayscale", AUGMENTED)),
            {
                "none": {COMPARED: 0.808},
                "crop + flip + grayscale": {name: value for name, value in log[-1].items() if name != "epoch"},
            },
            ("crop + flip + grayscale", "none"), "crop + flip + grayscale", {"crop + flip + grayscale": log},
        ),
        Experiment(
            "grayscale", "4.1", "Grayscale alone", None,
            (
                Setting("none", INITIAL),
                Setting("grayscale", dataclasses.replace(INITIAL, **GRAY)),
                Setting("crop + flip", dataclasses.replace(INITIAL, **CROP_FLIP)),
                Setting("crop + flip + grayscale", AUGMENTED),
            ),
            {}, ("grayscale", "none"), "crop + flip + grayscale",
        ),
        sweep(
            "learning_rate", "4.2.1", "Learning rate", AUGMENTED, (0.01, 0.005, 0.001),
            {"0.01": 0.8755, "0.005": 0.8836, "0.001": 0.8865}, ("0.001", "0.005", "0.01"), "0.001",
        ),
        sweep(
            "batch_size", "4.2.2", "Batch size", batches, (32, 64, 128),
            {"32": 0.8965, "64": 0.8909, "128": 0.8766}, ("32", "64", "128"), "32",
        ),
        sweep(
            "width", "4.2.3", "Channels", widths, (42, 64, 80),
            {"42": 0.9057, "64": 0.8947, "80": 0.9016}, ("42", "80", "64"), "42",
        ),
        sweep("blocks", "4.2", "Blocks", around, ((1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)), {}, (), "2 2 2 2"),
        sweep("kernel_size", "4.2", "Kernel size", around, (1, 3, 5), {}, (), "3"),
        sweep("pool_size", "4.2", "Pooling size", around, (1, 2, 4), {}, (), "4"),
        Experiment(
            "final", "4.3", "Final model", None, (Setting("final", final(choices)),),
            {
                "final": {
                    "train_loss": 0.050407, "test_loss": 0.358776, "train_accuracy": 0.982726, COMPARED: 0.909545,
                    "parameters": 4_815_940,
                }
            },
            (), None,
        ),
    )  # fmt: skip


def sweep(
    option: str, section: str, title: str, base: Config, values: tuple, accuracies: dict[str, float],
    claim: tuple[str, ...], chosen: str,
) -> Experiment:  # fmt: skip
    """The experiment that varies one option of `base`; its name is the option's, its labels are the values."""
    changes: list[dict[str, Any]] = [{option: value} for value in values]
    settings = tuple(
        Setting(label(value), dataclasses.replace(base, **change))
        for value, change in zip(values, changes, strict=True)
    )
    reported = {name: {COMPARED: accuracy} for name, accuracy in accuracies.items()}
    return Experiment(option, section, title, option, settings, reported, claim, chosen)


def label(value) -> str:
    """An option's value as the report's tables head a column with it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


NAMES = tuple(experiment.name for experiment in experiments())


def experiment(name: str) -> Experiment:
    """The experiment of this name, as the report made it."""
    return next(found for found in experiments() if found.name == name)
