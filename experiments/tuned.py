"""The tuned recipe: a WRN-28-3.5, of 4,480,474 parameters, for the highest accuracy under five million.

    python -m experiments.tuned --precision bfloat16                                # while choosing: 200 epochs
    python -m experiments.tuned --precision bfloat16 --epochs 600 --validation 0 --test-after training --seeds 5
    python -m experiments.tuned --quick                                             # a small network, synthetic images

While choosing, accuracies are those of 5,000 validation images, and no test image is evaluated. The final runs, the
second command, train on all images, and evaluate the test images once, after training. The accuracy to quote is then
that of `result.json`; the one of each image and its mirror image together is kept apart, in `evaluation-flip.json`
beside it. The same command resumes, and keeps finished runs: with more --seeds it adds runs to the setting.

The network (Zagoruyko and Komodakis 2016) has stages of 4 blocks, widths 56, 112 and 224, multiples of 8 as tensor
cores like them, the widest such below five million parameters. Where the recipe's values are from:

- Batch 128, SGD with Nesterov momentum 0.9, peak rate 0.1, weight decay 5e-4, crop with 4 pixels of padding, flip 0.5:
  Zagoruyko and Komodakis, section 3. Dropout 0: their gain from it on CIFAR-10 is for networks eight times as large.
- No grayscale: it takes colour from half of the images, which the test images have.
- Cosine schedule over 200 epochs: Mueller and Hutter 2021, whose policy, TrivialAugment, has no value to choose. Five
  epochs of warm-up: Goyal et al. 2017, section 2.2.
- Cutout 8: half the side that DeVries and Taylor 2017 found best without a policy, as operators and smoothing
  regularise a small network too; 16 is the alternative.
- Label smoothing 0.1: Szegedy et al. 2015, section 7. Weight decay on kernels alone: He et al. 2018 (arXiv 1812.01187),
  section 3.1.
- EMA 0.999: averages over 1,000 updates, about three epochs.

Not yet run here at full scale.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from experiments import report
from experiments.study import flip, runs, workers
from experiments.study import options as study_options
from experiments.study.experiment import Cell, Experiment, Setting, write_outcome
from experiments.study.flip import FLIP, Flip
from experiments.study.options import RunsOptions, SeedOptions, directory_of, seeds_of
from experiments.study.progress import Progress
from experiments.study.results import results_table
from jresnet import cli
from jresnet.cli.runs import resumable
from jresnet.config import Config
from jresnet.data.datasets import Dataset
from jresnet.records.files import write_bytes, write_json
from jresnet.records.lock import hold
from jresnet.rules import require
from jresnet.use.classifier import Classifier
from jresnet.use.evaluation import evaluate

NAME = "tuned"
PROGRAM = f"python -m experiments.{NAME}"

CONFIG = Config(
    model="wide_resnet28_10", width=56, dropout=0.0, budget=report.BUDGET,
    epochs=200, batch_size=128, learning_rate=0.1, momentum=0.9, nesterov=True, schedule="cosine", warmup_epochs=5.0,
    weight_decay=5e-4, weight_decay_on="kernels", label_smoothing=0.1, ema_decay=0.999,
    crop_padding=4, flip=0.5, grayscale=0.0, trivialaugment=True, cutout=8,
    validation=5000, test_after="never",
)  # fmt: skip

# Whole batches of 64 without the validation images, for which one program is compiled.
QUICK: dict[str, Any] = {
    "blocks": (1, 1), "train_images": 640, "test_images": 256, "validation": 64, "epochs": 2, "warmup_epochs": 1.0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(RunsOptions, SeedOptions):
    """Options of the tuned recipe: its configuration, and how often and where to run it."""

    GROUP: ClassVar = "record"

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be never while choosing, or training for final runs, as test images are evaluated at the end only"
        require(self, "test_after", self.test_after != "epochs", rule)

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the runs."""
        return directory_of(self, NAME if self.test_after == "training" else f"{NAME}-validation")


def run(arguments: list[str]) -> None:
    """Parse the options, train every seed, evaluate final runs with test-time flip, and write the outcome."""
    options = parse(arguments)
    workers.check(options)
    console = cli.make_console()
    dataset = options.load(console)
    wanted = runs.over_seeds(NAME, options.config, seeds_of(options), dataset, options.directory)
    runs.check(wanted, options.directory)
    progress = Progress(console, options.processes)
    command = cli.command(PROGRAM, arguments)
    with resumable(command), hold(options.directory, shared=True):
        progress.train(wanted, {NAME: wanted})
        cell = progress.cell(Setting(f"{options.epochs} epochs", wanted[0].config), wanted)
        final = cell.directories if options.test_after == "training" else ()
        flips = {directory: evaluated_with_flip(directory, dataset) for directory in final}
        if cell.records:
            conclude(cell, flips, options.directory, command, progress)
    progress.raise_failures(command)


def parse(arguments: Sequence[str]) -> Options:
    """Options from the command line; --quick changes their defaults to the small scale's."""
    return study_options.parse(PROGRAM, CONFIG, arguments, Options, QUICK)


def evaluated_with_flip(directory: pathlib.Path, dataset: Dataset) -> Flip:
    """What a run reaches with test-time flip; evaluated, and written beside its records, unless it has been."""
    path = directory / FLIP
    if not path.exists():
        classifier, console = Classifier.load(directory), cli.make_console()
        write_json(path, evaluate(classifier, dataset, tta="flip", sha256=dataset.sha256, console=console).to_json())
    return flip.read(directory)


def conclude(
    cell: Cell, flips: Mapping[pathlib.Path, Flip], workdir: pathlib.Path, command: str, progress: Progress
) -> None:
    """Print the finished runs, with test-time flip apart, and write their table and, last of all, the outcome."""
    table = results_table(cell.records)
    write_bytes(workdir / "table.md", table.markdown().encode())
    progress.console.print(table)
    results = dict(zip(cell.directories, cell.records, strict=True))
    for directory, found in flips.items():
        apart = f"apart from it, with test-time flip {found.accuracy:.2%}: {directory / FLIP}"
        progress.say(f"{directory}: test accuracy {results[directory]['test_accuracy']:.2%}; {apart}")
    outcome = write_outcome(workdir, command, [(Experiment(NAME, "", "Tuned recipe", (cell.setting,)), [cell])])
    for path in (workdir / "table.md", outcome):
        progress.say(str(path))


main = partial(cli.run_program, run)

if __name__ == "__main__":
    raise SystemExit(main())
