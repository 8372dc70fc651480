"""The arithmetic of training: floating-point operations per image."""

from benchmarks.jax_step import CLASSES, IMAGE_SIZE
from jresnet import models
from jresnet.models import ResNet, summary


def training_flops(model: ResNet, image_size: tuple[int, int]) -> int:
    """Floating-point operations of training on one image: 2 per multiply-add of convolutions and linear layers.

    For each product of the forward pass the backward pass makes two, for inputs and for weights.
    """
    return 3 * 2 * sum(layer.macs for layer in summary.layers(model, image_size))


def resnet18_flops(width: int) -> int:
    """`training_flops` of resnet18 of this width on CIFAR-10."""
    return training_flops(models.resnet18(num_classes=CLASSES, width=width), IMAGE_SIZE)
