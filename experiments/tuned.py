"""The tuned recipe: a plain residual network of 4,480,474 parameters, as well trained as this library knows how.

    python -m experiments.tuned --validation 5000 --precision bfloat16          # 200 epochs, while choosing
    python -m experiments.tuned --epochs 600 --validation 0 --seeds 5           # the long run, on all training images
    python -m experiments.tuned --quick                                         # a small network on synthetic images

Test images are evaluated once, after training. The accuracy to quote is that of `result.json`; the one of each image
and its mirror image together is computed after it and kept apart, in `evaluation-flip.json` beside the run's records.

The network is a WRN-28-3.5 (Zagoruyko and Komodakis 2016): stages of 4 blocks, widths 56, 112 and 224, multiples of 8
as tensor cores like them, the widest such below five million parameters. Where the recipe's values are from:

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
- 5,000 validation images while choosing; the final runs train on all images.

Not yet run here at full scale.
"""

import pathlib
from functools import partial

from experiments import report
from experiments.study import single
from experiments.study.experiment import OUTCOME, Cell, Experiment, Setting, study_record
from jresnet import cli
from jresnet.config import Config
from jresnet.parallel import distributed
from jresnet.records import schema
from jresnet.records.files import read_json, write_json
from jresnet.use.classifier import Classifier
from jresnet.use.evaluation import evaluate

NAME = "tuned"
FLIP = "evaluation-flip.json"
"""In a run's directory: its evaluation with test-time flip."""

CONFIG = Config(
    model="wide_resnet28_10", width=56, dropout=0.0, budget=report.BUDGET,
    epochs=200, batch_size=128, learning_rate=0.1, momentum=0.9, nesterov=True, schedule="cosine", warmup_epochs=5.0,
    weight_decay=5e-4, weight_decay_on="kernels", label_smoothing=0.1, ema_decay=0.999,
    crop_padding=4, flip=0.5, grayscale=0.0, trivialaugment=True, cutout=8,
    validation=5000, test_after="training",
)  # fmt: skip

# Whole batches of 64 without the validation images, for which one program is compiled.
QUICK = {"blocks": (1, 1), "train_images": 640, "test_images": 256, "validation": 64, "epochs": 2, "warmup_epochs": 1.0}


def run(arguments: list[str]) -> None:
    """Train every seed, then evaluate each with test-time flip, apart."""
    trained = single.run(NAME, CONFIG, arguments, QUICK)
    if not distributed.is_primary():
        return
    setting = Setting(NAME, trained.options.config)
    cell = Cell(setting, tuple(trained.records), directories=tuple(trained.directories.values()))
    experiment = Experiment(NAME, "", "Tuned recipe", (setting,))
    record = study_record(trained.command, [(experiment, [cell])], trained.workdir)
    write_json(trained.workdir / OUTCOME, schema.to_json(record))
    print(trained.workdir / OUTCOME)
    for directory, result in zip(trained.directories.values(), trained.records, strict=True):
        print(f"{directory}: test accuracy {result['test_accuracy']:.2%}; {with_flip(directory, trained)}")


def with_flip(directory: pathlib.Path, trained: single.Trained) -> str:
    """What a run reaches with test-time flip, and where that is written, in words; evaluated unless it has been."""
    path = directory / FLIP
    if not path.exists():
        found = evaluate(
            Classifier.load(directory), trained.dataset, tta="flip", sha256=trained.dataset.sha256,
            console=cli.make_console(),
        )  # fmt: skip
        write_json(path, found.to_json())
    record = read_json(path)
    return f"apart from it, with test-time flip {record['systems'][record['name']]['accuracy']:.2%}: {path}"


main = partial(cli.run_program, run)

if __name__ == "__main__":
    raise SystemExit(main())
