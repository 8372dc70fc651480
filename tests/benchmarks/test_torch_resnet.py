"""PyTorch's side of the benchmark: parameter counts, flops, a real step, and exact augmentation."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.jax_step import training_flops  # noqa: E402
from benchmarks.timing import Case  # noqa: E402
from benchmarks.torch_resnet import (  # noqa: E402
    GRAY,
    MEAN,
    PADDING,
    STD,
    Objective,
    ResNet,
    augment,
    batches,
    optimizer_of,
    torch_rival,
)
from jresnet.config import Config  # noqa: E402


def parameter_count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("width", "count"), [(32, 2_797_610), (42, 4_815_940), (64, 11_173_962)])
def test_parameter_counts(width, count):
    with torch.device("meta"):
        assert parameter_count(ResNet(width)) == count


@pytest.mark.parametrize("width", [8, 42])
def test_flops_agree_with_torchs_counter(width):
    with torch.device("meta"):
        network, images = ResNet(width).eval(), torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert training_flops(Config(width=width)) == 3 * counter.get_total_flops()


def test_flops_of_the_published_widths():
    assert training_flops(Config(width=42)) / 3e6 == pytest.approx(479.2, abs=0.05)
    assert training_flops(Config(width=64)) / 3e9 == pytest.approx(1.111, abs=0.0005)


def test_module_names_are_those_of_pytorch_cifar():
    with torch.device("meta"):
        keys = set(ResNet(8).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "linear.weight", "linear.bias"} <= keys
    assert {"layer1.0.conv1.weight", "layer1.1.bn2.bias", "layer4.1.conv2.weight"} <= keys
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var"} <= keys
    assert not [key for key in keys if key.startswith(("layer1.0.shortcut", "layer2.1.shortcut"))]


def small_objective(precision="float32"):
    torch.manual_seed(1)
    pixels = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8)
    return Objective(ResNet(8), pixels, torch.randint(10, (16,)), precision).train()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_step_changes_every_parameter_and_statistic(precision):
    objective = small_objective(precision)
    before = {name: value.clone() for name, value in objective.network.state_dict().items()}
    optimizer = optimizer_of(objective.network)
    objective(torch.arange(8)).backward()
    optimizer.step()
    after = objective.network.state_dict()
    assert [name for name in after if torch.equal(before[name], after[name])] == []
    assert {value.dtype for name, value in after.items() if "tracked" not in name} == {torch.float32}


def test_the_step_is_sgd_with_momentum_and_coupled_decay():
    objective = small_objective()
    weight = objective.network.linear.weight
    optimizer = optimizer_of(objective.network)
    velocity, expected = torch.zeros_like(weight), weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        objective(torch.arange(8)).backward()
        velocity = 0.9 * velocity + weight.grad + 5e-4 * expected
        expected = expected - 0.01 * velocity
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-7)


def reference_image(image, top, left, flip, gray):
    """One augmented and normalised image, float64 [3, height, width]."""
    height, width = image.shape[:2]
    canvas = np.zeros((height + 2 * PADDING, width + 2 * PADDING, 3))
    canvas[PADDING:-PADDING, PADDING:-PADDING] = image / 255.0
    crop = canvas[top : top + height, left : left + width]
    if flip:
        crop = crop[:, ::-1]
    if gray:
        crop = np.repeat(crop @ np.array(GRAY)[:, None], 3, axis=2)
    return ((crop - MEAN) / STD).transpose(2, 0, 1)


def test_augment_matches_a_per_image_reference():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    indices = np.array([3, 0, 4, 1, 3, 2])
    top, left = np.array([0, 8, 4, 3, 1, 0]), np.array([8, 0, 4, 2, 7, 0])
    flip = np.array([True, False, True, False, True, False])
    gray = np.array([False, True, True, False, False, False])
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    found = augment(*(torch.from_numpy(array) for array in (padded, indices, top, left, flip, gray)))
    rows = zip(indices, top, left, flip, gray, strict=True)
    expected = np.stack([reference_image(images[index], *rest) for index, *rest in rows])
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_objective_pads_with_zeros_and_draws_every_offset():
    objective = small_objective()
    padded = objective.get_buffer("padded")
    assert padded.shape == (16, 40, 40, 3)
    assert not padded[:, :PADDING].any()
    assert not padded[:, :, -PADDING:].any()
    seen = []
    objective.network = torch.nn.Module()
    objective.network.forward = lambda images: seen.append(images) or torch.zeros(len(images), 10)
    objective(torch.zeros(4096, dtype=torch.int64))
    # 81 crops, flipped or not, gray or not, are 324 images: 4096 draws miss one of them with probability 0.001.
    assert len(torch.unique(seen[0].flatten(1), dim=0)) >= 320


def test_every_epoch_holds_each_image_once_in_a_new_order():
    stream = batches(12, 4, "cpu")
    epochs = [torch.cat([next(stream) for _ in range(3)]).tolist() for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rival_takes_that_many_steps(precision, monkeypatch):
    taken = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: taken.append(step(self)))
    # 8 channels: of fewer, oneDNN's strided 1x1 convolutions can go wrong or wait forever in the backward pass
    # where memory has channels last (github.com/uxlfoundation/oneDNN/issues/6035).
    rival = torch_rival(Case(8, 8, precision, "cpu"), compiled=False)
    rival.run(3)
    rival.close()
    assert len(taken) == 3
