"""PyTorch's side of the benchmark: the same network and training step, as a good PyTorch user would write them.

Modules have the names of kuangliu/pytorch-cifar, so that state dicts can be compared key by key.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.timing import POOL_IMAGES, Case, Device, Rival
from jresnet.config import Precision
from jresnet.records.environment import cpu_cores

PADDING = 4
"""Pixels of zero padding around an image before the random crop."""
# Mean and standard deviation of the channels of CIFAR-10's training images, scaled to 0..1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
# Weights of red, green and blue in a gray image, as in torchvision (ITU-R BT.601).
GRAY = (0.2989, 0.587, 0.114)


class BasicBlock(nn.Module):
    """Two convolutions with batch normalisation and a shortcut, projected where the shape changes; He et al. 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel_size: int):
        """Build a block from `inputs` to `outputs` channels whose first convolution has this stride."""
        super().__init__()
        self.conv1 = _conv(inputs, outputs, kernel_size, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, kernel_size, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, outputs, height / stride, width / stride]."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet: a stem of stride 1, then stages `layer1`, `layer2`, ... that double the channels."""

    def __init__(
        self,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        kernel_size: int = 3,
        pool_size: int = 4,
        num_classes: int = 10,
        image_size: tuple[int, int] = (32, 32),
    ):
        """Build the network with PyTorch's default initial weights.

        The odd `kernel_size` is that of the stem and the blocks, `pool_size` side and stride of the final average
        pooling. Every stage but the first halves height and width, rounding up; what is left of `image_size`
        (height, width) decides the linear layer's number of inputs.
        """
        super().__init__()
        self.pool_size = pool_size
        self.conv1 = _conv(3, width, kernel_size, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = [f"layer{stage + 1}" for stage in range(len(blocks))]
        inputs, (rows, columns) = width, image_size
        for stage, depth in enumerate(blocks):
            outputs, stride = width * 2**stage, 1 if stage == 0 else 2
            layers = [BasicBlock(inputs, outputs, stride, kernel_size)]
            layers += [BasicBlock(outputs, outputs, 1, kernel_size) for _ in range(depth - 1)]
            self.add_module(self.stages[stage], nn.Sequential(*layers))
            inputs, rows, columns = outputs, -(-rows // stride), -(-columns // stride)
        self.linear = nn.Linear(inputs * (rows // pool_size) * (columns // pool_size), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [batch, 3, height, width] -> logits [batch, num_classes]."""
        x = functional.relu(self.bn1(self.conv1(images)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(functional.avg_pool2d(x, self.pool_size).flatten(1))


def _conv(inputs: int, outputs: int, kernel_size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=False)


def augment(padded: Tensor, indices: Tensor, top: Tensor, left: Tensor, flip: Tensor, gray: Tensor) -> Tensor:
    """Crop, flip, convert to gray and normalise a batch of padded images.

    Batch, crop and flip are one gather of bytes: a flip reads the columns in reverse.

    Args:
      padded: uint8 [images, side + 2 * PADDING, side + 2 * PADDING, 3], zeros around each image.
      indices: int64 [batch], which images.
      top: int64 [batch], first row of each crop, 0 to 2 * PADDING.
      left: int64 [batch], first column of each crop.
      flip: bool [batch], which crops are mirrored left to right.
      gray: bool [batch], which crops become gray.

    Returns:
      float32 [batch, 3, side, side] in channels-last memory.
    """
    reach = torch.arange(padded.shape[1] - 2 * PADDING, device=padded.device)
    rows = top[:, None] + reach
    columns = left[:, None] + torch.where(flip[:, None], reach.flip(0), reach)
    pixels = padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]].float() / 255
    luminance = (pixels * pixels.new_tensor(GRAY)).sum(-1, keepdim=True)
    pixels = torch.where(gray[:, None, None, None], luminance, pixels)
    return ((pixels - pixels.new_tensor(MEAN)) / pixels.new_tensor(STD)).permute(0, 3, 1, 2)


class Objective(nn.Module):
    """The loss of a batch from its indices, so that augmentation, network and loss compile together.

    The images are buffers because a captured CUDA graph reads buffers in place but copies arguments.
    """

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, precision: Precision):
        """Pad `images`, uint8 [images, side, side, 3], and keep them with `labels`, int64 [images]."""
        super().__init__()
        self.network = network
        self.mixed = precision == "bfloat16"
        self.register_buffer("padded", functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING)))
        self.register_buffer("labels", labels)

    def forward(self, indices: Tensor) -> Tensor:
        """Mean cross-entropy of the images at `indices`, int64 [batch], with new augmentations."""
        padded, labels = self.get_buffer("padded"), self.get_buffer("labels")
        top, left = torch.randint(2 * PADDING + 1, (2, len(indices)), device=padded.device)
        flip, gray = torch.rand(2, len(indices), device=padded.device) < 0.5
        images = augment(padded, indices, top, left, flip, gray)
        with torch.autocast(padded.device.type, torch.bfloat16, enabled=self.mixed):
            return functional.cross_entropy(self.network(images), labels[indices])


def batches(images: int, batch_size: int, device: str) -> Iterator[Tensor]:
    """Indices [batch_size] of endless batches, shuffled anew in every epoch."""
    while True:
        order = torch.randperm(images, device=device)
        for start in range(0, images - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def optimizer_of(network: nn.Module) -> torch.optim.SGD:
    """The report's SGD, as one fused kernel over all parameters."""
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)


def wait(result: Tensor) -> None:
    """Return when the result's device has finished."""
    if result.is_cuda:
        torch.cuda.synchronize()


def torch_device(device: Device) -> str:
    """PyTorch's name for a device."""
    return "cuda" if device == "gpu" else "cpu"


def set_up() -> None:
    """Use all cores; on a GPU use the fastest cuDNN kernels and TF32 matrix products.

    On NVIDIA GPUs JAX uses TF32 for float32 convolutions and matrix products, PyTorch by default for convolutions
    only.
    """
    torch.set_num_threads(cpu_cores())
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def torch_rival(case: Case, compiled: bool) -> Rival:
    """PyTorch's training step on `case`, eager or `compiled`.

    Raises:
      RuntimeError: PyTorch has no such device, or too little memory.
    """
    set_up()
    torch.manual_seed(0)
    device = torch_device(case.device)
    images = max(POOL_IMAGES, case.batch_size)
    network = ResNet(case.width).to(device).train()
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    pixels = torch.randint(256, (images, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(10, (images,), device=device)
    objective = Objective(network, pixels, labels, case.precision)
    # The fastest kernels, and CUDA graphs: launch latency is most of an eager step at these batch sizes.
    mode = "max-autotune" if case.device == "gpu" else None
    loss_of = torch.compile(objective, mode=mode) if compiled else objective
    optimizer = optimizer_of(network)
    order = batches(images, case.batch_size, device)

    def run(steps: int) -> None:
        for indices in (next(order) for _ in range(steps)):
            optimizer.zero_grad(set_to_none=True)
            loss_of(indices).backward()
            optimizer.step()
        wait(labels)

    # Without the reset PyTorch would silently run eager after eight compiled programs.
    return Rival(run, close=torch.compiler.reset)
