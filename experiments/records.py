"""The committed records: those of runs in experiments/results/, those of speed and cost in benchmarks/results/."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from experiments import costs, published
from experiments.study import committed
from experiments.study.committed import Study
from experiments.study.stopped import Stopped, read_stopped

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Records(NamedTuple):
    """The committed records.

    Attributes:
      studies: the finished runs.
      speed: of a training step.
      ingredients: what each costs in a training step; None if that has not been measured.
      networks: likewise, of networks.
      published: accuracies of published weights.
      stopped: the final model at full scale, which was stopped.
    """

    studies: Sequence[Study]
    speed: dict
    ingredients: dict | None
    networks: dict | None
    published: published.Record
    stopped: Stopped


def read_records(root: pathlib.Path) -> Records:
    """The records of a source tree.

    Raises:
      InputError: one is missing or damaged.
    """
    studies, speed = committed.read_studies(root), costs.read_speed(root)
    ingredients, networks = (costs.read_costs(root, path) for path in (costs.INGREDIENT_COSTS, costs.NETWORK_COSTS))
    return Records(studies, speed, ingredients, networks, published.read(root), read_stopped(root))


def record_drifts(records: Records, root: pathlib.Path) -> list[str]:
    """Where the records contradict themselves or their checksums, one line each."""
    found = [line for study in records.studies for line in committed.study_drifts(study, root)]
    for path, record in ((costs.INGREDIENT_COSTS, records.ingredients), (costs.NETWORK_COSTS, records.networks)):
        found += costs.cost_drifts(record, path) if record else []
    return found + costs.speed_drifts(records.speed) + published.drifts(records.published)
