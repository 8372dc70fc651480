"""Published weights, converted under their own names and evaluated: the accuracy here beside the published one.

    python -m experiments.published resnet20-12fca82f.th resnet56-4bfd9763.th --dataset npz:cifar10.npz \
        --output experiments/results/published.json

The files are those of github.com/akamaster/pytorch_resnet_cifar10, in pretrained_models/; both together take about
four minutes on two shared CPU cores. README.md has a line about the committed record.
"""

import dataclasses
import hashlib
import pathlib

import tyro.conf

from experiments.study.commands import without_paths
from experiments.study.results import data_name
from jresnet import cli
from jresnet.config import Config
from jresnet.data.datasets import Dataset, dataset_record, load_dataset
from jresnet.errors import InputError, first_line
from jresnet.models import parameter_count, weights_file
from jresnet.models.weights import recognise
from jresnet.parallel.devices import Devices
from jresnet.records import environment, schema
from jresnet.records.files import read_json, write_json
from jresnet.records.run import DataJson
from jresnet.records.schema import Count, Fraction, NonNegative
from jresnet.rules import require
from jresnet.train.evaluate import Evaluator

PROGRAM = "python -m experiments.published"
RECORD = pathlib.Path("experiments", "results", "published.json")
# The normalisation of its training program, which is ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (32, 32)
"""Height and width in pixels of the images that the networks were trained on."""
SOURCE = "akamaster/pytorch_resnet_cifar10 on GitHub, pretrained_models"
PUBLISHED = {
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8": 0.9173,
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367": 0.9339,
}
"""The sha256 of the files of ResNet-20 and ResNet-56, and their published accuracies on CIFAR-10's test images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """One file of weights."""

    file: str
    """its name"""
    sha256: str
    """of its bytes"""
    network: str
    """what its tensors fit, as options"""
    parameters: Count
    """trainable parameters"""
    published: Fraction
    """the published accuracy"""
    accuracy: Fraction
    """the one here"""
    correct: Count
    """test images classified rightly"""
    total: Count
    """test images, each of which counts once"""
    loss: NonNegative
    """mean cross-entropy in nats"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The accuracies of published weights, the content of `published.json`."""

    command: str
    """with relative paths as typed, and names only of files elsewhere"""
    source: str
    """who published the weights, and where"""
    dataset: DataJson
    """the data on which they are evaluated"""
    mean: tuple[Fraction, ...]
    """of the normalisation, by channel on a scale of 0 to 1"""
    std: tuple[Fraction, ...]
    """likewise"""
    networks: tuple[Network, ...]
    """one for each file"""
    device: str
    """the devices, in words"""
    versions: dict[str, str]
    """of Python and of the packages that decide a result"""
    commit: str | None
    """of the source tree, with `-dirty` if tracked files differed"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Convert published weights and evaluate them on the test images."""

    weights: tyro.conf.Positional[tuple[str, ...]]
    """Files of ResNet-20 or ResNet-56, as published."""
    dataset: str = "cifar10"
    """CIFAR-10, as of the other experiments."""
    data_dir: str | None = None
    """Directory of prepared TFDS data sets."""
    output: pathlib.Path | None = None
    """JSON file for the record."""

    def __post_init__(self) -> None:
        require(self, "weights", len(self.weights) > 0, "give at least one file")


def read(root: pathlib.Path) -> Record:
    """The record of a source tree.

    Raises:
      InputError: it is missing or damaged.
    """
    return schema.parse(Record, read_json(root / RECORD), root / RECORD)


def drifts(record: Record) -> list[str]:
    """Where accuracies differ from the counts that they are shares of, one line each."""
    return [
        f"{RECORD}: the accuracy of {network.file} is {network.accuracy}, its counts give "
        f"{network.correct} of {network.total}: restore the file"
        for network in record.networks
        if not network.total or network.accuracy != network.correct / network.total
    ]


def evaluate(path: str, dataset: Dataset) -> Network:
    """Convert a file of published weights and evaluate it on the test images.

    Raises:
      InputError: it is none of the published files, or its tensors fit no network.
    """
    try:
        sha256 = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or first_line(error)}): give another path") from None
    if sha256 not in PUBLISHED:
        raise InputError(f"{path}: is not ResNet-20 or ResNet-56 of {SOURCE}: give the file as published")
    weights = weights_file.read(path, image_size=SIZE)
    if weights.num_classes != len(dataset.classes):
        given = f"{weights.num_classes} classes, {dataset.name} has {len(dataset.classes)}"
        raise InputError(f"{path}: has {given}: give CIFAR-10")
    devices = Devices(Config(parallel="jit"))
    evaluator = Evaluator(weights.network, (MEAN, STD), devices)
    outputs = evaluator(devices.replicate(weights.variables()), dataset.test)
    correct = int((outputs.predictions == dataset.test.labels).sum())
    return Network(
        file=pathlib.Path(path).name, sha256=sha256, network=recognise.as_words(weights.config),
        parameters=parameter_count(weights.network, SIZE), published=PUBLISHED[sha256],
        accuracy=correct / len(dataset.test), correct=correct, total=len(dataset.test),
        loss=float(outputs.losses.mean()),
    )  # fmt: skip


def main(words: list[str]) -> None:
    """Evaluate every file, print a line for each, and write the record."""
    options = cli.parse(Options, words, PROGRAM)
    commit = environment.commit()
    dataset = load_dataset(options.dataset, options.data_dir)
    height, width = dataset.image_size
    rule = f"its images are {height} x {width}, and the networks were trained on {SIZE[0]} x {SIZE[1]}: give CIFAR-10"
    require(options, "dataset", dataset.image_size == SIZE, rule)
    data = dataset_record(dataset, dataset.sha256)
    networks = []
    for path in options.weights:
        network = evaluate(path, dataset)
        networks.append(network)
        print(f"{network.file}: {network.accuracy:.2%} of {network.total:,}, published {network.published:.2%}")
    record = Record(
        command=without_paths(cli.command(PROGRAM, words)), source=SOURCE, dataset=data | {"name": data_name(data)},
        mean=MEAN, std=STD, networks=tuple(networks), device=environment.device(), versions=environment.versions(),
        commit=commit,
    )  # fmt: skip
    if options.output:
        write_json(options.output, schema.to_json(record))
        print(options.output)


if __name__ == "__main__":
    raise SystemExit(cli.run_program(main))
