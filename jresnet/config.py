"""The configuration of a run: a frozen dataclass that validates its values.

Standard library only, so that bad values are refused before anything expensive is imported.
The defaults are the report's model after section 4.1: with data augmentation, and otherwise as in the table
at the beginning of section 4.
"""

import dataclasses
import math
from typing import ClassVar, Literal

from jresnet.rules import check_types, float32, numbers, require

BatchNorm = Literal["synchronised", "local"]
ClassWeights = Literal["balanced"]
Input = Literal["auto", "resident", "tfds"]
KeepBest = Literal["validation"]
Model = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "preact_resnet18",
    "resnet20", "resnet32", "resnet44", "resnet56", "resnet110",
    "wide_resnet16_8", "wide_resnet28_10", "resnet_se443", "imagenet_resnet18", "imagenet_resnet50",
]  # fmt: skip
Parallel = Literal["auto", "jit", "pmap"]
Optimizer = Literal["sgd", "adamw", "muon"]
Precision = Literal["float32", "bfloat16"]
Resize = Literal["crop", "pad", "stretch"]
Schedule = Literal["constant", "cosine", "linear", "one-cycle", "step"]
Shortcut = Literal["projection", "padding"]
Stem = Literal["small", "small-pool", "imagenet"]
TestAfter = Literal["epochs", "training", "never"]
WeightDecayOn = Literal["all", "kernels"]

MAX_SIDE = 2**14
"""Pixels of an image's side that --image-size may ask for."""
MAX_STAGES = 10
"""Every stage but the first halves the images' sides: ten bring 512 pixels down to one."""
MAX_BLOCKS = 600
"""In all stages: the deepest published ResNet, of 1202 layers, has so many (He et al. 2016, section 4.2)."""
FLOAT32_SMALLEST, FLOAT32_LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""The range of positive float32 numbers; smaller ones lose digits, and become 0 on most devices."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the data come from, and how they are read; the docstrings are the help of the options.

    Attributes:
      GROUP: heading of the options in `--help`; other groups of options have their own.

    Raises:
      InputError: a value breaks its rule.
    """

    GROUP: ClassVar = "data"

    dataset: str = "cifar10"
    """cifar10, cifar100 or any other TFDS name, npz:FILE, folder:DIR, or synthetic."""
    data_dir: str | None = None
    """Directory of prepared TFDS sets or of CIFAR's archives (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels to which images of other sizes are resized (default: all must have one size)."""
    resize: Resize = "crop"
    """How images of another shape fit --image-size: cut to it, padded with the background, or stretched."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Red, green and blue, 0 to 255, behind transparent images and around padded ones."""
    skip_unreadable: bool = False
    """Go on without the files of folder:DIR that are not readable images; the run records which."""
    test_from: Literal["validation"] | None = None
    """Test on the validation images, for data that have no test images; they are then no validation images."""
    holdout_test: int = 0
    """Test on this many training images, the same share of every class, for data that have no test images."""

    def __post_init__(self) -> None:
        """Check every value that can be checked without the data."""
        check_types(self)
        for number in numbers(self.image_size):
            require(self, "image_size", 1 <= number <= MAX_SIDE, f"must be from 1 to {MAX_SIDE}")
        in_range = all(0 <= level <= 255 for level in self.background)
        require(self, "background", in_range, "must be three levels from 0 to 255")
        require(self, "holdout_test", 0 <= self.holdout_test < 2**31, "must be at least 0 and below 2147483648")
        one = not (self.test_from and self.holdout_test)
        require(self, "holdout_test", one, "or --test-from, not both: choose where the test images come from")

    @property
    def source(self) -> "Source":
        """These options alone, without those of a subclass."""
        return Source(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Source)})


@dataclasses.dataclass(frozen=True)
class DataConfig(Source):
    """How the training images become batches."""

    GROUP: ClassVar = Source.GROUP

    validation: int = 0
    """Number of training images held out for validation, the same share of every class."""
    input: Input = "auto"
    """resident: images on the device, augmented there; tfds: tf.data on the host; auto: resident if they fit."""

    crop_padding: int = 4
    """Zero padding on each side before the random crop, in pixels (section 3.2); 0 disables cropping."""
    flip: float = 0.5
    """Probability of a horizontal flip (section 3.2)."""
    grayscale: float = 0.5
    """Probability of conversion to grayscale (section 3.2)."""
    alternate_flip: bool = False
    """Flip every image in every second epoch, half of them first in the first one (Jordan 2024, arXiv 2404.00498)."""
    trivialaugment: bool = False
    """One operator of random magnitude per image, after crop and flip (Mueller and Hutter 2021, arXiv 2103.10158)."""
    randaugment: tuple[int, int] | None = None
    """Operators per image and their magnitude, 0 to 30, as in 2 9 (Cubuk et al. 2019, arXiv 1909.13719)."""
    cutout: int = 0
    """Side in pixels of a square set to the mean colour at a random place (DeVries and Taylor 2017); 0: none."""
    mixup: float = 0.0
    """Alpha of the Beta distribution by which every image is averaged with another; a share for each image, where
    Zhang et al. 2017 draw one for each batch; 0: never."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution of the area that every image has from another; one for each image, where
    Yun et al. 2019 draw one for each batch, and leave half of the batches as they are; 0: never."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Which network is trained."""

    GROUP: ClassVar = "network"

    model: Model = "resnet18"
    """The network; see `jresnet.models`. The options below, --budget excepted, default to the network's own values."""
    width: int | None = None
    """Channels of the first stage (the report's "channel"; resnet18: 64), doubled in each later stage."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks per stage (resnet18: 2 2 2 2)."""
    kernel_size: int | tuple[int, ...] | None = None
    """K: odd kernel size of the convolutions in the blocks (3); one number, or one per stage."""
    pool_size: int | None = None
    """P: window and stride of the final average pooling, in pixels of the last feature map (resnet18: 4); 0: all."""
    dropout: float | None = None
    """Dropout rate: inside the blocks of pre-activation networks, before the linear layer of others (resnet18: 0)."""
    shortcut: Shortcut | None = None
    """Of blocks that change the shape: projection, a 1x1 convolution (resnet18), or padding with zeros (resnet20)."""
    stem: Stem | None = None
    """small: one convolution; small-pool: and 3x3 max pooling of stride 2; imagenet: 7x7 of stride 2, and pooling."""
    epsilon: float | None = None
    """Added to the variance by every batch normalisation (1e-5)."""
    zero_init: bool = False
    """Begin with scale 0 in each block's last batch normalisation (Goyal et al. 2017, arXiv 1706.02677)."""
    budget: int | None = None
    """Maximum number of trainable parameters, checked before training (5,000,000 in the report)."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How it is trained."""

    GROUP: ClassVar = "training"

    epochs: int = 100
    """Passes over the training set (section 4.1 logs epochs 0 to 99)."""
    batch_size: int = 64
    """Images per training step, over all devices."""
    optimizer: Optimizer = "sgd"
    """sgd; adamw; or muon for the kernels of convolutions, and sgd for the rest (Jordan et al. 2024)."""
    learning_rate: float = 0.01
    """Peak learning rate."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of the kernels that --optimizer muon gives to Muon."""
    momentum: float = 0.9
    """Momentum of SGD (section 3.3.3) and of Muon; beta1 of AdamW."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: float = 5e-4
    """Weight decay, added to the gradient as in torch.optim.SGD (section 3.3.3); AdamW and Muon scale the weights."""
    weight_decay_on: WeightDecayOn = "all"
    """all parameters, as in the report, or only the kernels of convolutions and of linear layers."""
    schedule: Schedule = "constant"
    """Learning rate schedule; step divides the rate by 10 after one half and after three quarters of the run;
    one-cycle goes up from 1/25 of the peak, which --warmup-epochs places, and down to 1/250,000, both linearly."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from 0 at the start of the run."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes (Szegedy et al. 2015, arXiv 1512.00567, section 7)."""
    ema_decay: float | None = None
    """Evaluate and use averages of all updates' weights, the latest weighing 1 - ema_decay in the long run
    (default: no averages)."""
    clip_norm: float | None = None
    """Scale gradients down to this norm, over all parameters, where theirs is larger."""
    accumulate: int = 1
    """Compute each batch in so many parts, one after another: less memory, batch statistics of each part, and an update
    of the running ones per part."""
    sam: float = 0.0
    """Radius rho of sharpness-aware minimisation, with two gradients per step (Foret et al. 2020); 0: without."""
    init_from: str | None = None
    """Start from the weights of a run's directory or a file, and with their network's options where none are given."""
    freeze: tuple[int, ...] = ()
    """Stages that keep the weights and batch statistics of --init-from: 0, the stem, and 1, 2, ..., the stages."""
    head_learning_rate: float | None = None
    """Peak learning rate of the linear layer (default: --learning-rate)."""
    class_weights: ClassWeights | None = None
    """balanced: weigh each image's loss by images / (classes x images of its class), as for classes of unequal size."""
    keep_best: KeepBest | None = None
    """validation: keep the checkpoint of the epoch with the highest validation accuracy, too, in best/."""
    test_after: TestAfter = "epochs"
    """When to evaluate the test images: after all epochs, as the report does; once, after training; or never, while
    settings are chosen on validation images."""


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """How devices compute it."""

    GROUP: ClassVar = "devices"

    precision: Precision = "float32"
    """Precision of the network's arithmetic; parameters and batch statistics are always float32."""
    parallel: Parallel = "auto"
    """jit: one device; pmap: all devices of all processes; auto: pmap if there are several devices."""
    batch_norm: BatchNorm = "synchronised"
    """Batch statistics on several devices: synchronised, of the whole batch; local, of each device's share."""
    channel_multiple: int = 1
    """Pad channels with zeros to a multiple of this while training: same parameters, same function (8 is for GPUs)."""
    deterministic: bool = False
    """Make equal runs on a GPU equal in every bit, at some cost in speed; runs on CPUs are equal anyway."""


@dataclasses.dataclass(frozen=True)
class Config(DeviceConfig, TrainingConfig, NetworkConfig, DataConfig):
    """Everything that a run depends on except its seed and its data; the docstrings are the help of the options.

    Raises:
      InputError: a value breaks its rule, in the constructor or in `dataclasses.replace`.
    """

    def __post_init__(self) -> None:
        """Check every value that can be checked without the data."""
        super().__post_init__()
        positive = ("width", "kernel_size", "blocks", "epochs", "batch_size", "channel_multiple", "accumulate")
        smallest = dict.fromkeys(positive, 1) | dict.fromkeys(("validation", "crop_padding", "pool_size", "cutout"), 0)
        for name, least in smallest.items():
            for number in numbers(getattr(self, name)):
                require(self, name, number >= least, f"must be at least {least}")
                require(self, name, number < 2**31, "must be below 2147483648, the limit of JAX's 32-bit integers")
        for name in ("flip", "grayscale"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must be a probability from 0 to 1")
        rule = "must be at least 0 and below 1, also when it is rounded to 32 bits"
        for name in ("dropout", "momentum", "label_smoothing"):
            rate = getattr(self, name)
            require(self, name, rate is None or (0 <= rate < 1 and float32(rate) < 1), rule)
        require(self, "epsilon", self.epsilon is None or self.epsilon > 0, "must be above 0")
        require(self, "budget", self.budget is None or 1 <= self.budget < 2**63, "must be at least 1 and below 2**63")
        odd = all(side % 2 == 1 for side in numbers(self.kernel_size))
        require(self, "kernel_size", odd, "must be odd, so that the padding is symmetric")
        stages = 1 if self.blocks is None else len(self.blocks)
        require(self, "blocks", 1 <= stages <= MAX_STAGES, f"must name at least one stage and at most {MAX_STAGES}")
        few = sum(numbers(self.blocks)) <= MAX_BLOCKS
        require(self, "blocks", few, f"must hold at most {MAX_BLOCKS} blocks, as many as ResNet-1202 has")
        require(self, "learning_rate", 0 < self.learning_rate < math.inf, "must be a finite number above 0")
        require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "must be finite and not negative")
        require(self, "warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, "must lie between 0 and --epochs")
        self._check_augmentation()
        self._check_optimizer()
        self._check_fine_tuning()
        if self.nesterov:
            require(self, "momentum", self.momentum > 0, "must be above 0 with --nesterov")
        rates = (
            "learning_rate",
            "muon_learning_rate",
            "head_learning_rate",
            "weight_decay",
            "warmup_epochs",
            "clip_norm",
        )
        others = ("label_smoothing", "ema_decay", "mixup", "cutmix", "sam")
        for name in ("flip", "grayscale", "dropout", "epsilon", "momentum", *rates, *others):
            size = getattr(self, name) or FLOAT32_SMALLEST  # 0 and None are exempt
            small = not isinstance(size, int) or size < 2**31
            require(self, name, small, "must be a float at this size, as in 1e10, for JAX's 32-bit integers end here")
            rule = "must lie from 1.2e-38 to 3.4e+38, the range of JAX's 32-bit numbers"
            require(self, name, FLOAT32_SMALLEST <= size <= FLOAT32_LARGEST, rule)

    def _check_augmentation(self) -> None:
        """Check the options of augmentations beyond the report's, and which of them go together."""
        half = self.flip == 0.5 or not self.alternate_flip
        require(self, "flip", half, "must be 0.5 with --alternate-flip: half of the images begin flipped")
        count, magnitude = self.randaugment or (1, 0)
        rule = "must be 1 to 14 operators, as many as there are, and a magnitude from 0 to 30"
        require(self, "randaugment", 1 <= count <= 14 and 0 <= magnitude <= 30, rule)
        one = self.randaugment is None or not self.trivialaugment
        require(self, "randaugment", one, "leave it out, or --trivialaugment: each is a policy of its own")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            require(self, name, 0 <= alpha < math.inf, "must be finite and not negative")
            rule = "leave it out with --class-weights: a pair of images has no one class to weigh it by"
            require(self, name, not (alpha and self.class_weights), rule)
            rule = "needs a second image in the batch: leave it out, or raise --batch-size"
            require(self, name, not alpha or self.batch_size > 1, rule)

    def _check_optimizer(self) -> None:
        """Check the options of optimizers beyond the report's, and which of them go together."""
        finite = 0 < self.muon_learning_rate < math.inf
        require(self, "muon_learning_rate", finite, "must be a finite number above 0")
        read = self.optimizer == "muon" or self.muon_learning_rate == Config.muon_learning_rate
        require(self, "muon_learning_rate", read, "must come with --optimizer muon: no other optimizer has such a rate")
        decay = self.ema_decay
        rule = "must be above 0 and below 1, also when it is rounded to 32 bits"
        require(self, "ema_decay", decay is None or (0 < decay < 1 and float32(decay) < 1), rule)
        clipped = self.clip_norm is None or 0 < self.clip_norm < math.inf
        require(self, "clip_norm", clipped, "must be finite and above 0")
        cycle = self.schedule != "one-cycle" or 0 < self.warmup_epochs < self.epochs
        rule = "must be above 0 and below --epochs with --schedule one-cycle, whose peak it places"
        require(self, "warmup_epochs", cycle, rule)
        require(self, "sam", 0 <= self.sam < math.inf, "must be finite and not negative")
        for name in ("mixup", "cutmix", "accumulate", "optimizer"):
            alone = not self.sam or getattr(self, name) == getattr(Config, name)
            require(self, name, alone, "cannot be combined with --sam: leave out one of them")
        plain = self.optimizer != "adamw" or not self.nesterov
        require(self, "optimizer", plain, "must be sgd or muon with --nesterov")

    def _check_fine_tuning(self) -> None:
        """Check the options that start from weights, and bring the frozen stages into their order."""
        object.__setattr__(self, "freeze", tuple(sorted(set(self.freeze))))
        within = all(0 <= stage <= MAX_STAGES for stage in self.freeze)
        require(self, "freeze", within, f"must be 0, the stem, or numbers of stages, at most {MAX_STAGES}")
        rule = "must come with --init-from: random weights would stay random"
        require(self, "freeze", not self.freeze or self.init_from is not None, rule)
        rule = "leave it out with --init-from, whose weights replace the initial scales"
        require(self, "zero_init", not self.zero_init or self.init_from is None, rule, value="")
        rate = self.head_learning_rate
        require(self, "head_learning_rate", rate is None or 0 < rate < math.inf, "must be a finite number above 0")

    def steps_per_epoch(self, images: int) -> int:
        """Number of steps in an epoch over `images` images; a smaller last batch counts as a step."""
        return -(-images // self.batch_size)
