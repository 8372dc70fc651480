"""The evaluation of a run with test-time flip: with the probabilities of each image and its mirror image together."""

import pathlib
from typing import NamedTuple

from jresnet.errors import InputError
from jresnet.records.files import read_json

FLIP = "evaluation-flip.json"
"""In the run's directory: a record of `jresnet evaluate --tta flip`."""
MOVED = 1e-3
"""Share of the images that another batch size, which sums in another order, may make the network see otherwise."""


class Flip(NamedTuple):
    """What the evaluation says.

    Attributes:
      accuracy: with flip.
      plain: without.
      counted: with flip, from the matrix of predictions.
      sha256: of the data.
    """

    accuracy: float
    plain: float
    counted: float
    sha256: str


def read(run: pathlib.Path) -> Flip:
    """What the evaluation of the run in a directory says; InputError if it is damaged."""
    path = run / FLIP
    record = read_json(path)
    try:
        confusion, systems = record["confusion"], record["systems"]
        right, total = sum(row[i] for i, row in enumerate(confusion)), sum(map(sum, confusion))
        flipped, plain = (float(systems[name]["accuracy"]) for name in (record["name"], record["models"][0]["name"]))
        return Flip(flipped, plain, right / total, str(record["dataset"]["sha256"]))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not an evaluation with test-time flip ({error!r}): restore the file") from None


def drifts(path: pathlib.Path, flip: Flip, result: dict) -> list[str]:
    """Where an evaluation, the file at `path`, contradicts itself or its run's result, one line each."""
    test = result.get("test_accuracy")
    found = []
    if flip.accuracy != flip.counted:
        found.append(f"{path}: accuracy is {flip.accuracy}, its matrix gives {flip.counted}: restore the file")
    if test is None or abs(flip.plain - test) > MOVED:
        found.append(f"{path}: accuracy without flip is {flip.plain}, the run's result has {test}: restore the file")
    if flip.sha256 != result["dataset"]["sha256"]:
        found.append(f"{path}: is of other data than the run: restore the file")
    return found
