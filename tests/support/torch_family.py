"""The family in PyTorch, written from its publications: the reference for jresnet's own.

Depths, widths, strides and names are literals of the papers and of the two public layouts; nothing is
read from jresnet. Where a paper leaves a choice open, the public code that decides it is named.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


class Padding(nn.Module):
    """He et al. 2015, option A, with zeros before and after the channels as in akamaster/pytorch_resnet_cifar10."""

    def __init__(self, missing: int, stride: int):
        super().__init__()
        self.stride, self.zeros = stride, (missing // 2, missing - missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.zeros))


def skip(inputs: int, outputs: int, stride: int, option: str) -> nn.Module:
    """The identity where it fits; else option A or B of He et al. 2015, or "bare", B without batch normalisation."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if option == "A":
        return Padding(outputs - inputs, stride)
    projection = conv(inputs, outputs, 1, stride)
    return nn.Sequential(projection) if option == "bare" else nn.Sequential(projection, nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """He et al. 2015, figure 5 left."""

    expansion = 1

    def __init__(self, inputs: int, features: int, side: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, features, side, stride), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features, side), nn.BatchNorm2d(features)

    def forward(self, x: Tensor, skip: nn.Module) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + skip(x))


class Bottleneck(nn.Module):
    """He et al. 2015, figure 5 right, the stride on the middle convolution as in both public layouts."""

    expansion = 4

    def __init__(self, inputs: int, features: int, side: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, features, 1), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = conv(features, features, side, stride), nn.BatchNorm2d(features)
        self.conv3, self.bn3 = conv(features, 4 * features, 1), nn.BatchNorm2d(4 * features)

    def forward(self, x: Tensor, skip: nn.Module) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + skip(x))


class Preact(nn.Module):
    """He et al. 2016, figure 1 b; with dropout Zagoruyko and Komodakis 2016, figure 1 d.

    A projection starts from the activated input: kuangliu/pytorch-cifar, szagoruyko/wide-residual-networks.
    """

    expansion = 1

    def __init__(self, inputs: int, features: int, side: int, stride: int, dropout: float = 0.0):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, features, side, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(features), conv(features, features, side)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: nn.Module) -> Tensor:
        active = functional.relu(self.bn1(x))
        y = self.dropout(functional.relu(self.bn2(self.conv1(active))))
        return self.conv2(y) + (x if isinstance(skip, nn.Identity) else skip(active))


class Squeeze(nn.Module):
    """Hu et al. 2017, figure 3."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, channels // reduction), nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3))))))
        return x * weights[:, :, None, None]


class Network(nn.Module):
    """Stem, stages that double the channels and all but the first halve the sides, average pooling, linear layer."""

    def __init__(
        self,
        kind: type,
        stage_sizes: tuple[int, ...],
        width: int = 64,
        num_classes: int = 10,
        kernel_size: tuple[int, ...] = (3, 3, 3, 3),
        pool_size: int | None = None,
        stem_width: int | None = None,
        large: bool = False,
        max_pool: bool = False,
        channels: int = 3,
        squeeze: int | None = None,
        option: str = "B",
        final_norm: bool = False,
        names: tuple[str, str] = ("shortcut", "linear"),
        **block_options,
    ):
        super().__init__()
        self.skip_name, self.head_name = names
        self.preactivated, self.final_norm = kind is Preact, final_norm
        images, channels = channels, stem_width or width
        self.conv1 = conv(images, channels, 7, 2) if large else conv(images, channels, kernel_size[0])
        self.bn1 = nn.Identity() if self.preactivated else nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large or max_pool else nn.Identity()
        self.se = Squeeze(channels, squeeze) if squeeze else nn.Identity()
        self.stages = [f"layer{stage + 1}" for stage in range(len(stage_sizes))]
        for stage, depth in enumerate(stage_sizes):
            features, blocks = width * 2**stage, []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(kind(channels, features, kernel_size[stage], stride, **block_options))
                outputs = features * kind.expansion
                blocks[-1].add_module(self.skip_name, skip(channels, outputs, stride, option))
                channels = outputs
            self.add_module(self.stages[stage], nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels) if final_norm else nn.Identity()
        self.pool = nn.AvgPool2d(pool_size) if pool_size else nn.AdaptiveAvgPool2d(1)
        self.add_module(self.head_name, nn.Linear(channels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        x = x if self.preactivated else functional.relu(self.bn1(x))
        x = self.se(self.maxpool(x))
        for name in self.stages:
            for block in self.get_submodule(name):
                x = block(x, block.get_submodule(self.skip_name))
        x = functional.relu(self.bn(x)) if self.final_norm else x
        return self.get_submodule(self.head_name)(self.pool(x).flatten(1))


# He et al. 2015, table 1, with the stem and the names of kuangliu/pytorch-cifar.
small = partial(Network, pool_size=4)
# Its section 4.2: 6n + 2 layers, three stages of 16, 32 and 64 channels; the paper's own shortcuts are option A.
cifar = partial(Network, Basic, width=16, option="A")
# Zagoruyko and Komodakis 2016, table 1: 6n + 4 layers, 16 channels, then k times 16, 32 and 64; dropout of section 3.3.
wide = partial(Network, Preact, stem_width=16, option="bare", final_norm=True, dropout=0.3)
# He et al. 2015, table 1, with torchvision's names.
large = partial(Network, num_classes=1000, large=True, names=("downsample", "fc"))

FAMILY = {
    "resnet18": partial(small, Basic, stage_sizes=(2, 2, 2, 2)),
    # huyvnphan/PyTorch_CIFAR10.
    "resnet18 pool": partial(Network, Basic, stage_sizes=(2, 2, 2, 2), max_pool=True),
    "resnet34": partial(small, Basic, stage_sizes=(3, 4, 6, 3)),
    "resnet50": partial(small, Bottleneck, stage_sizes=(3, 4, 6, 3)),
    "resnet101": partial(small, Bottleneck, stage_sizes=(3, 4, 23, 3)),
    "resnet152": partial(small, Bottleneck, stage_sizes=(3, 8, 36, 3)),
    "preact_resnet18": partial(small, Preact, stage_sizes=(2, 2, 2, 2), option="bare"),
    "resnet20": partial(cifar, stage_sizes=(3, 3, 3)),
    "resnet32": partial(cifar, stage_sizes=(5, 5, 5)),
    "resnet44": partial(cifar, stage_sizes=(7, 7, 7)),
    "resnet56": partial(cifar, stage_sizes=(9, 9, 9)),
    "resnet110": partial(cifar, stage_sizes=(18, 18, 18)),
    "resnet20 B": partial(cifar, stage_sizes=(3, 3, 3), option="B"),
    "resnet32 B": partial(cifar, stage_sizes=(5, 5, 5), option="B"),
    "resnet44 B": partial(cifar, stage_sizes=(7, 7, 7), option="B"),
    "resnet56 B": partial(cifar, stage_sizes=(9, 9, 9), option="B"),
    "resnet110 B": partial(cifar, stage_sizes=(18, 18, 18), option="B"),
    "wide_resnet28_10": partial(wide, stage_sizes=(4, 4, 4), width=160),
    "wide_resnet16_8": partial(wide, stage_sizes=(2, 2, 2), width=128),
    "imagenet_resnet18": partial(large, Basic, stage_sizes=(2, 2, 2, 2)),
    "imagenet_resnet50": partial(large, Bottleneck, stage_sizes=(3, 4, 6, 3)),
    # Thakur et al. 2023, and Nikunj-Gupta/Efficient_ResNets for the position of the squeeze and excitation.
    "resnet_se443": partial(Network, Basic, stage_sizes=(4, 4, 3), squeeze=16),
}


def randomise(network: nn.Module, bias: tuple[float, float] = (0.0, 1.0)) -> nn.Module:
    """Draw scales, biases (mean and standard deviation given) and running statistics, all of which start at 0 or 1."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_(*bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return network
