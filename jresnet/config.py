"""One run's configuration: a frozen record that checks itself, and the counts that follow from it.

Standard library only, so that bad values are refused before anything expensive is imported.
The defaults are the report's model after section 4.1: data augmentation on, every other value as
in the table at the head of section 4.
"""

import dataclasses
import math
from typing import Any, Literal, get_args

from jresnet.errors import InputError

BatchNorm = Literal["synchronised", "local"]
Input = Literal["auto", "resident", "tfds"]
Model = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "preact_resnet18",
    "resnet20", "resnet32", "resnet44", "resnet56", "resnet110",
    "wide_resnet16_8", "wide_resnet28_10", "resnet_se443", "imagenet_resnet18", "imagenet_resnet50",
]  # fmt: skip
Parallel = Literal["auto", "jit", "pmap"]
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "cosine", "linear", "step"]

CHOICES: dict[str, tuple[str, ...]] = {
    "model": get_args(Model),
    "input": get_args(Input),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
    "parallel": get_args(Parallel),
    "batch_norm": get_args(BatchNorm),
}
"""The fields that take one of a few words."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on besides its seed and its data; vary it with `dataclasses.replace`.

    Raises:
      InputError: a value breaks its rule, whichever way the record was made.
    """

    dataset: str = "cifar10"
    """cifar10, cifar100 or another TFDS name; npz:FILE; folder:DIR; synthetic."""
    data_dir: str | None = None
    """Directory of prepared TFDS data sets (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    validation: int = 0
    """Images held out of the training set for validation, the same share of every class."""
    input: Input = "auto"
    """resident: images on the device, augmented inside the program; tfds: tf.data on the host."""

    crop_padding: int = 4
    """Pixels of zero padding before the random crop (section 3.2); 0 turns cropping off."""
    flip: float = 0.5
    """Probability of a horizontal flip (section 3.2)."""
    grayscale: float = 0.5
    """Probability of conversion to gray (section 3.2)."""

    model: Model = "resnet18"
    """Which network; see `jresnet.models`. What the next five options leave out is the network's own."""
    width: int | None = None
    """Channels of the first stage (the report's "channel"; resnet18: 64); each later stage doubles it."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks per stage (resnet18: 2 2 2 2)."""
    kernel_size: int | tuple[int, ...] | None = None
    """K: side of the blocks' convolution kernels, odd (3); one number, or one for each stage."""
    pool_size: int | None = None
    """P: side and stride of the final average pooling, in cells of the last feature map (resnet18: 4)."""
    dropout: float | None = None
    """Dropout rate, inside pre-activation blocks or before the linear layer of other networks (resnet18: 0)."""
    budget: int | None = None
    """Most trainable parameters allowed; checked before training (the report's is 5,000,000)."""

    epochs: int = 100
    """Passes over the training images (section 4.1 logs epochs 0 to 99)."""
    batch_size: int = 64
    """Images per step, over all devices together."""
    learning_rate: float = 0.01
    """Peak learning rate of SGD."""
    momentum: float = 0.9
    """Momentum of SGD (section 3.3.3)."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """Weight decay on every parameter, coupled as in torch.optim.SGD (section 3.3.3)."""
    schedule: Schedule = "constant"
    """Course of the learning rate; step divides it by 10 at one half and three quarters of the run."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises linearly from 0."""

    precision: Precision = "float32"
    """Arithmetic of the network; parameters and statistics are float32 in both."""
    parallel: Parallel = "auto"
    """jit: one device; pmap: all devices, of all processes; auto: pmap where there are several."""
    batch_norm: BatchNorm = "synchronised"
    """Over several devices: statistics of the whole batch, or local, each device's own share's."""

    def __post_init__(self):
        """Check every value that can be judged without the data."""
        for name, choices in CHOICES.items():
            require(self, name, getattr(self, name) in choices, f"must be one of {', '.join(choices)}")
        for name in ("width", "kernel_size", "pool_size", "blocks", "epochs", "batch_size"):
            for number in numbers(getattr(self, name)):
                require(self, name, number >= 1, "must be at least 1")
                require(self, name, number < 2**31, "must be below 2147483648, as JAX counts in 32 bits")
        for name in ("validation", "crop_padding"):
            require(self, name, getattr(self, name) >= 0, "must not be negative")
            require(self, name, getattr(self, name) < 2**31, "must be below 2147483648, as JAX counts in 32 bits")
        for name in ("flip", "grayscale"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must be a probability from 0 to 1")
        for name in ("dropout", "momentum"):
            rate = getattr(self, name)
            require(self, name, rate is None or 0 <= rate < 1, "must be at least 0 and below 1")
        require(self, "budget", self.budget is None or self.budget >= 1, "must be at least 1")
        odd = all(side % 2 == 1 for side in numbers(self.kernel_size))
        require(self, "kernel_size", odd, "must be odd, so that borders stay symmetric")
        require(self, "blocks", self.blocks is None or len(self.blocks) > 0, "must name at least one stage")
        require(self, "blocks", max(numbers(self.blocks), default=1) < 1000, "must hold below 1000 blocks in any stage")
        require(self, "learning_rate", 0 < self.learning_rate < math.inf, "must be a finite number above 0")
        require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "must be finite and not negative")
        require(self, "warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, "must lie between 0 and --epochs")
        if self.nesterov:
            require(self, "momentum", self.momentum > 0, "must be above 0 with --nesterov")

    def steps_per_epoch(self, images: int) -> int:
        """Steps in one epoch over `images` images; the last, smaller batch counts as one."""
        return -(-images // self.batch_size)


def require(config: Any, name: str, holds: bool, rule: str) -> None:
    """Raise InputError with the option of field `name` of a dataclass, its value and the rule, unless `holds`.

    NaN fails every comparison, so it is refused too.
    """
    if not holds:
        option = f"--{name.replace('_', '-')} {_shown(getattr(config, name))}".rstrip()
        raise InputError(f"{option}: {rule}")


def numbers(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The numbers an option was given: none, one or several."""
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _shown(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
