"""PyTorch's side of the benchmark: the same network and training step, as a good PyTorch user would write them.

Modules have the names of kuangliu/pytorch-cifar, so that state dicts can be compared key by key.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.timing import POOL_IMAGES, Case, Device, Rival
from jresnet.records.environment import cpu_cores

PADDING = 4
"""Pixels of zero padding around an image before the random crop."""
# Mean and standard deviation of the channels of CIFAR-10's training images, scaled to 0..1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
# Weights of red, green and blue in a gray image, as in torchvision (ITU-R BT.601).
GRAY = (0.2989, 0.587, 0.114)
Mode = Literal["eager", "compile", "graph"]
WARM_UP = 3
"""Steps before a capture, as PyTorch's documentation does: cuDNN chooses its kernels, momentum gets its memory."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes PyTorch's step fast; `torch_rival` applies what its record says.

    Attributes:
      autocast: dtype of the network's arithmetic under autocast; None: float32.
      compile: mode of `torch.compile` of augmentation, network and loss; None: eager. "max-autotune" captures the
        forward and the backward pass into CUDA graphs of its own.
      cuda_graph: what is captured into one CUDA graph; None: nothing.
      memory_format: of convolutions' kernels and of images.
      data: where the images are.
      fused_sgd: whether the update is one kernel over all parameters.
      cudnn_benchmark: whether cuDNN's fastest kernels are found by trial.
      float32_matmul_precision: "high" allows TF32. On NVIDIA GPUs JAX uses it for float32 convolutions and matrix
        products, PyTorch by default for convolutions only.
    """

    autocast: str | None = None
    compile: str | None = None
    cuda_graph: str | None = None
    memory_format: str = "channels_last"
    data: str = "resident"
    fused_sgd: bool = True
    cudnn_benchmark: bool = True
    float32_matmul_precision: str = "high"


def settings_of(case: Case, mode: Mode) -> Settings:
    """The best settings for a case; mode "graph" needs a GPU."""
    autotuned = {"eager": None, "compile": "max-autotune", "graph": "max-autotune-no-cudagraphs"}[mode]
    return Settings(
        autocast="bfloat16" if case.precision == "bfloat16" else None,
        compile=autotuned if case.device == "gpu" or autotuned is None else "default",
        cuda_graph="forward, backward, optimizer" if mode == "graph" else None,
    )


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


def augment(
    padded: Tensor, colors: Tensor, indices: Tensor, top: Tensor, left: Tensor, flip: Tensor, gray: Tensor
) -> Tensor:
    """Crop, flip, convert to gray and normalise a batch of padded images.

    Batch, crop and flip are one gather of bytes: a flip reads the columns in reverse.

    Args:
      padded: uint8 [images, side + 2 * PADDING, side + 2 * PADDING, 3], zeros around each image.
      colors: float32 [3, 3], GRAY, MEAN and STD; on the device already, as a capture allows no copies from the host.
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
    weights, mean, std = colors
    luminance = (pixels * weights).sum(-1, keepdim=True)
    pixels = torch.where(gray[:, None, None, None], luminance, pixels)
    return ((pixels - mean) / std).permute(0, 3, 1, 2)


class Objective(nn.Module):
    """The loss of a batch from its indices, so that augmentation, network and loss compile together.

    The images are buffers because a captured CUDA graph reads buffers in place but copies arguments.
    """

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, autocast: str | None):
        """Pad `images`, uint8 [images, side, side, 3], and keep them with `labels`, int64 [images]."""
        super().__init__()
        self.network = network
        self.autocast = None if autocast is None else getattr(torch, autocast)
        self.register_buffer("padded", functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING)))
        self.register_buffer("labels", labels)
        self.register_buffer("colors", torch.tensor([GRAY, MEAN, STD], device=images.device))

    def forward(self, indices: Tensor) -> Tensor:
        """Mean cross-entropy of the images at `indices`, int64 [batch], with new augmentations."""
        padded, labels = self.get_buffer("padded"), self.get_buffer("labels")
        top, left = torch.randint(2 * PADDING + 1, (2, len(indices)), device=padded.device)
        flip, gray = torch.rand(2, len(indices), device=padded.device) < 0.5
        images = augment(padded, self.get_buffer("colors"), indices, top, left, flip, gray)
        with torch.autocast(padded.device.type, self.autocast, enabled=self.autocast is not None):
            return functional.cross_entropy(self.network(images), labels[indices])


def batches(images: int, batch_size: int, device: str) -> Iterator[Tensor]:
    """Indices [batch_size] of endless batches, shuffled anew in every epoch."""
    while True:
        order = torch.randperm(images, device=device)
        for start in range(0, images - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def optimizer_of(network: nn.Module, fused: bool = True) -> torch.optim.SGD:
    """The report's SGD, `fused` into one kernel over all parameters."""
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)


def wait(result: Tensor) -> None:
    """Return when the result's device has finished."""
    if result.is_cuda:
        torch.cuda.synchronize()


def torch_device(device: Device) -> str:
    """PyTorch's name for a device."""
    return "cuda" if device == "gpu" else "cpu"


def set_up(settings: Settings) -> None:
    """Use all cores, and what the settings say for the whole process."""
    torch.set_num_threads(cpu_cores())
    torch.set_float32_matmul_precision(settings.float32_matmul_precision)
    torch.backends.cudnn.benchmark = settings.cudnn_benchmark


def captured(
    step: Callable[[Tensor], None], optimizer: torch.optim.Optimizer, batch: Tensor
) -> Callable[[Tensor], None]:
    """The whole training step as one CUDA graph that is replayed with other indices; `batch`, int64, has their shape.

    The graph draws new augmentations at every replay, because it advances the default generator of the device.
    """
    indices = batch.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(indices)
    # Without gradients the captured backward pass writes them, in the graph's memory, instead of adding to them.
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    # The warm-up's stream, as autograd's accumulators belong to it. Only calls of this thread are checked, as JAX's
    # threads in this process may call CUDA at any time.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step(indices)

    def replay(batch: Tensor) -> None:
        indices.copy_(batch)
        graph.replay()

    return replay


def torch_rival(case: Case, mode: Mode) -> Rival:
    """PyTorch's training step on `case`.

    Raises:
      RuntimeError: PyTorch has no such device, or too little memory.
    """
    settings = settings_of(case, mode)
    set_up(settings)
    torch.manual_seed(0)
    device = torch_device(case.device)
    images = max(POOL_IMAGES, case.batch_size)
    network = ResNet(case.width).to(device).train()
    nn.utils.convert_conv2d_weight_memory_format(network, getattr(torch, settings.memory_format))
    pixels = torch.randint(256, (images, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(10, (images,), device=device)
    objective = Objective(network, pixels, labels, settings.autocast)
    compiled = settings.compile is not None
    loss_of = torch.compile(objective, mode=settings.compile, dynamic=False) if compiled else objective
    optimizer = optimizer_of(network, settings.fused_sgd)
    order = batches(images, case.batch_size, device)

    def step(indices: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(indices).backward()
        optimizer.step()

    take_step: Callable[[Tensor], None] | None = step if settings.cuda_graph is None else None

    def run(steps: int) -> None:
        nonlocal take_step
        if take_step is None:  # in the first call, whose duration is that of compilation
            take_step = captured(step, optimizer, next(order))
        for indices in (next(order) for _ in range(steps)):
            take_step(indices)
        wait(labels)

    # Without the reset PyTorch would silently run eager after eight compiled programs.
    return Rival(run, close=torch.compiler.reset, settings=dataclasses.asdict(settings))
