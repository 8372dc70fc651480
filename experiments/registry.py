"""The report's experiments, in its order."""

from experiments import (
    augmentation,
    batch_size,
    blocks,
    final,
    grayscale,
    initial,
    kernel_size,
    learning_rate,
    pool_size,
    width,
)

EXPERIMENTS = (
    initial.EXPERIMENT,
    augmentation.EXPERIMENT,
    grayscale.EXPERIMENT,
    learning_rate.EXPERIMENT,
    batch_size.EXPERIMENT,
    width.EXPERIMENT,
    blocks.EXPERIMENT,
    kernel_size.EXPERIMENT,
    pool_size.EXPERIMENT,
    final.EXPERIMENT,
)
NAMES = tuple(experiment.name for experiment in EXPERIMENTS)
