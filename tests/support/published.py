"""Published CIFAR networks in PyTorch as their repositories describe them: names of tensors, stem, shortcuts, pooling.

Written from the published descriptions, small in width; weights and statistics are drawn.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.torch_family import Basic, Network, conv, randomise


class Numbered(nn.Module):
    """weiaicunzai/pytorch-cifar100: layers are numbered within the stem and within each block."""

    def __init__(self, stage_sizes: tuple[int, ...], width: int, num_classes: int, bottleneck: bool):
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        channels, stages = width, []
        for stage, depth in enumerate(stage_sizes):
            blocks = []
            for index in range(depth):
                blocks.append(NumberedBlock(channels, width * 2**stage, 2 if stage and not index else 1, bottleneck))
                channels = width * 2**stage * (4 if bottleneck else 1)
            stages.append((f"conv{stage + 2}_x", nn.Sequential(*blocks)))
        self.stages = [name for name, _ in stages]
        for name, module in stages:
            self.add_module(name, module)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


class NumberedBlock(nn.Module):
    """Its residual function and its shortcut, a projection where the shape changes."""

    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = features * (4 if bottleneck else 1)
        sides = [(inputs, features, 1, 1), (features, features, 3, stride), (features, outputs, 1, 1)]
        sides = sides if bottleneck else [(inputs, features, 3, stride), (features, features, 3, 1)]
        layers = [layer for side in sides for layer in (conv(*side), nn.BatchNorm2d(side[1]), nn.ReLU())]
        self.residual_function = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual_function(x) + self.shortcut(x))


def chenyaofo(blocks=(3, 3, 3), width=16, num_classes=100):
    """chenyaofo/pytorch-cifar-models: 6n + 2 layers with torchvision's names and projections."""
    return Network(Basic, blocks, width, num_classes, option="B", names=("downsample", "fc"))


def huyvnphan(blocks=(2, 2, 2, 2), width=64, num_classes=10):
    """huyvnphan/PyTorch_CIFAR10: torchvision's network with a 3x3 stem of stride 1, its max pooling kept."""
    return Network(Basic, blocks, width, num_classes, max_pool=True, names=("downsample", "fc"))


def medmnist(blocks=(2, 2, 2, 2), width=64, num_classes=9, channels=1):
    """MedMNIST/experiments, for images of 28 x 28: kuangliu's network, adaptive pooling, one channel or three."""
    return Network(Basic, blocks, width, num_classes, channels=channels)


def akamaster(blocks=(3, 3, 3), width=16, num_classes=10):
    """akamaster/pytorch_resnet_cifar10: 6n + 2 layers, option A; its files hold `module.` names of DataParallel."""
    return Network(Basic, blocks, width, num_classes, option="A")


def weiaicunzai(blocks=(2, 2, 2, 2), width=64, num_classes=100, bottleneck=False):
    """weiaicunzai/pytorch-cifar100: kuangliu's network with other names."""
    return Numbered(blocks, width, num_classes, bottleneck)


def drawn(network: nn.Module, epsilon: float = 1e-5) -> nn.Module:
    """The network with drawn tensors in evaluation, and this epsilon in its batch normalisations."""
    torch.manual_seed(0)
    for module in randomise(network, bias=(0.0, 0.1)).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)  # so that different images have different probabilities
    return network.eval()


def as_saved(network: nn.Module, prefix: str = "") -> OrderedDict[str, Tensor]:
    """Its state dict with a prefix before every name."""
    return OrderedDict((prefix + name, tensor) for name, tensor in network.state_dict().items())
