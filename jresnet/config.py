"""One run's configuration: a frozen record that checks itself, and the counts that follow from it.

Standard library only, so that bad values are refused before anything expensive is imported.
The defaults are the report's model after section 4.1: data augmentation on, every other value as
in the table at the head of section 4.
"""

import bisect
import dataclasses
import math
from typing import Literal, get_args

from jresnet.errors import InputError

Input = Literal["auto", "resident", "tfds"]
Parallel = Literal["auto", "jit", "pmap"]
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "cosine", "linear", "step"]

CHOICES: dict[str, tuple[str, ...]] = {
    "input": get_args(Input),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
    "parallel": get_args(Parallel),
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

    width: int = 64
    """Channels of the first stage; each later stage doubles it (the report's "channel")."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks per stage."""
    kernel_size: int = 3
    """K: side of the stem's and the blocks' convolution kernels, odd."""
    pool_size: int = 4
    """P: side and stride of the final average pooling, in cells of the last feature map."""
    dropout: float = 0.0
    """Dropout rate before the linear layer; 0 because of batch normalisation (section 3.3.3)."""
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
    """jit: one device; pmap: all local devices; auto: pmap where there are several."""

    def __post_init__(self):
        """Check every value that can be judged without the data."""
        for name, choices in CHOICES.items():
            require(self, name, getattr(self, name) in choices, f"must be one of {', '.join(choices)}")
        for name in ("width", "kernel_size", "pool_size", "epochs", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("width", "kernel_size", "pool_size", "epochs", "batch_size", "validation", "crop_padding"):
            require(self, name, getattr(self, name) < 2**31, "must be below 2147483648, as JAX counts in 32 bits")
        for name in ("validation", "crop_padding"):
            require(self, name, getattr(self, name) >= 0, "must not be negative")
        for name in ("flip", "grayscale"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must be a probability from 0 to 1")
        for name in ("dropout", "momentum"):
            require(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        require(self, "budget", self.budget is None or self.budget >= 1, "must be at least 1")
        require(self, "kernel_size", self.kernel_size % 2 == 1, "must be odd, so that borders stay symmetric")
        require(self, "blocks", len(self.blocks) > 0, "must name at least one stage")
        require(self, "blocks", min(self.blocks, default=1) >= 1, "must hold at least 1 block in every stage")
        require(self, "learning_rate", 0 < self.learning_rate < math.inf, "must be a finite number above 0")
        require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "must be finite and not negative")
        require(self, "warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, "must lie between 0 and --epochs")
        if self.nesterov:
            require(self, "momentum", self.momentum > 0, "must be above 0 with --nesterov")

    def parameter_count(self, num_classes: int, image_size: tuple[int, int], channels: int = 3) -> int:
        """Trainable parameters of this configuration's network, in closed form.

        Args:
          num_classes: classes the linear layer tells apart.
          image_size: (height, width) of the images in pixels.
          channels: colour channels of the images.
        """
        area = self.kernel_size**2
        total = area * channels * self.width + 2 * self.width
        inputs = self.width
        for stage, depth in enumerate(self.blocks):
            outputs = self.width * 2**stage
            for block in range(depth):
                total += area * inputs * outputs + area * outputs**2 + 4 * outputs
                if inputs != outputs or (block == 0 and stage > 0):
                    total += inputs * outputs + 2 * outputs
                inputs = outputs
        height, width = (side // self.pool_size for side in self.feature_map(image_size))
        return total + (height * width * inputs + 1) * num_classes

    def feature_map(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the last feature map: each stage but the first halves the sides, rounding up."""
        height, width = image_size
        for _ in self.blocks[1:]:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def check_network(self, num_classes: int, image_size: tuple[int, int]) -> int:
        """Check the network against its images and its budget; return its parameter count.

        Raises:
          InputError: the pooling is larger than the feature map, or the budget is exceeded.
        """
        height, width = self.feature_map(image_size)
        require(
            self, "pool_size", self.pool_size <= min(height, width),
            f"exceeds the last feature map, {height} x {width} for images of {image_size[0]} x {image_size[1]}: "
            f"choose at most {min(height, width)}",
        )  # fmt: skip
        count = self.parameter_count(num_classes, image_size)
        if self.budget is not None and count > self.budget:
            fitting = bisect.bisect_right(
                # Every network has more parameters than its width squared.
                range(1, min(self.width, math.isqrt(self.budget) + 1)), self.budget,
                key=lambda width: dataclasses.replace(self, width=width).parameter_count(num_classes, image_size),
            )  # fmt: skip
            smaller = f"--width {fitting} or less" if fitting else "fewer --blocks"
            raise InputError(
                f"--width {self.width}: the network has {count:,} parameters, over the budget of {self.budget:,}: "
                f"choose {smaller}, or raise --budget"
            )
        return count

    def steps_per_epoch(self, images: int) -> int:
        """Steps in one epoch over `images` images; the last, smaller batch counts as one."""
        return -(-images // self.batch_size)


def require(config: Config, name: str, holds: bool, rule: str) -> None:
    """Raise InputError for field `name` unless `holds`; NaN fails every comparison, so it is refused too."""
    if not holds:
        option = f"--{name.replace('_', '-')} {_shown(getattr(config, name))}".rstrip()
        raise InputError(f"{option}: {rule}")


def _shown(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
