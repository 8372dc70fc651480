"""PyTorch's side of the benchmark: parameter counts, flops, a real step, and exact augmentation."""

import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks import torch_resnet  # noqa: E402
from benchmarks.timing import Case, contest  # noqa: E402
from benchmarks.torch_resnet import (  # noqa: E402
    GRAY,
    MEAN,
    PADDING,
    STD,
    Objective,
    ResNet,
    Settings,
    augment,
    batches,
    optimizer_of,
    settings_of,
    torch_rival,
)
from jresnet.config import Config  # noqa: E402
from jresnet.models.summary import training_flops  # noqa: E402


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


def small_objective(autocast=None):
    torch.manual_seed(1)
    pixels = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8)
    return Objective(ResNet(8), pixels, torch.randint(10, (16,)), autocast).train()


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_one_step_changes_every_parameter_and_statistic(autocast):
    objective = small_objective(autocast)
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
    colors = np.array([GRAY, MEAN, STD], np.float32)
    found = augment(*(torch.from_numpy(array) for array in (padded, colors, indices, top, left, flip, gray)))
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


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_rival_takes_that_many_steps(precision, monkeypatch):
    taken = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: taken.append(step(self)))
    # 8 channels: of fewer, oneDNN's strided 1x1 convolutions can go wrong or wait forever in the backward pass
    # where memory has channels last (github.com/uxlfoundation/oneDNN/issues/6035).
    rival = torch_rival(Case(8, 8, precision, "cpu"), "eager")
    rival.run(3)
    rival.close()
    assert len(taken) == 3


@pytest.mark.parametrize("matmul", ["high", "highest"])
@pytest.mark.parametrize("autocast", [pytest.param(None, marks=pytest.mark.slow), "bfloat16"])
def test_a_rival_applies_the_settings_that_its_record_says(autocast, matmul, monkeypatch):
    """Whatever the settings, the process, the network, the loss and the optimizer have them."""
    settings = Settings(autocast, "reduce-overhead", None, "contiguous_format", "resident", False, False, matmul)
    seen = {}

    def compiled(objective, **options):
        seen.update(options, objective=objective)
        return objective

    def optimizer(network, fused):
        seen["fused"] = fused
        return optimizer_of(network, fused)

    monkeypatch.setattr(torch_resnet, "settings_of", lambda case, mode: settings)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch_resnet, "optimizer_of", optimizer)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.get_float32_matmul_precision()
    try:
        timing = contest({"torch": lambda: torch_rival(Case(8, 8, "float32", "cpu"), "eager")}, 1, 1)["torch"]
        assert torch.get_float32_matmul_precision() == matmul
    finally:
        torch.set_float32_matmul_precision(before)
    assert not torch.backends.cudnn.benchmark
    assert seen["mode"] == "reduce-overhead"
    assert seen["fused"] is False
    assert seen["objective"].autocast == (autocast and torch.bfloat16)
    assert seen["objective"].network.conv1.weight.is_contiguous()
    assert timing.error is None
    assert timing.record()["settings"] == {
        "autocast": autocast, "compile": "reduce-overhead", "cuda_graph": None, "memory_format": "contiguous_format",
        "data": "resident", "fused_sgd": False, "cudnn_benchmark": False, "float32_matmul_precision": matmul,
    }  # fmt: skip


def test_on_a_gpu_every_mode_has_the_best_settings():
    found = {mode: settings_of(Case(42, 32, "bfloat16", "gpu"), mode) for mode in ("eager", "compile", "graph")}
    assert {mode: (s.compile, s.cuda_graph) for mode, s in found.items()} == {
        "eager": (None, None),
        "compile": ("max-autotune", None),
        "graph": ("max-autotune-no-cudagraphs", "forward, backward, optimizer"),
    }
    best = {("bfloat16", "channels_last", "resident", True, True, "high")}
    assert {
        (s.autocast, s.memory_format, s.data, s.fused_sgd, s.cudnn_benchmark, s.float32_matmul_precision)
        for s in found.values()
    } == best
    on_cpu = settings_of(Case(42, 32, "float32", "cpu"), "compile")
    assert (on_cpu.compile, on_cpu.autocast) == ("default", None)


class FakeGraph:
    """Records what `torch.cuda.graph` captures, and repeats it."""

    def __init__(self, log):
        self.log = log

    def replay(self):
        self.log.append("replay")


def test_the_whole_step_is_captured_in_the_first_call_then_replayed(monkeypatch):
    log = []

    def captured(step, optimizer, batch):
        log.append(f"capture {len(batch)}")
        step(batch)
        return lambda indices: log.append(f"replay {len(indices)}")

    monkeypatch.setattr(torch_resnet, "settings_of", lambda case, mode: Settings(cuda_graph="all of it"))
    monkeypatch.setattr(torch_resnet, "captured", captured)
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: log.append("update") or step(self))
    rival = torch_rival(Case(8, 8, "float32", "cpu"), "graph")
    assert log == []
    rival.run(2)
    rival.run(1)
    assert log == ["capture 8", "update", "replay 8", "replay 8", "replay 8"]


def test_capture_warms_up_then_captures_without_gradients_and_replays_with_new_indices(monkeypatch):
    """The order of calls that PyTorch's documentation prescribes; there is no GPU to run them."""
    log, fed = [], []

    class Stream:
        def wait_stream(self, other):
            log.append("wait")

    @contextlib.contextmanager
    def stream(which):
        log.append("on the side")
        yield

    @contextlib.contextmanager
    def graph(which, stream, capture_error_mode):
        log.append("capture")
        yield
        log.append("captured")

    fakes = {"Stream": Stream, "current_stream": Stream, "stream": stream, "graph": graph}
    for name, fake in (fakes | {"CUDAGraph": lambda: FakeGraph(log)}).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def step(indices):
        log.append("step" if weight.grad is None else "step with gradient")
        fed.append(indices)
        weight.grad = torch.ones(2)

    batch = torch.arange(4)
    replay = torch_resnet.captured(step, optimizer, batch)
    warm_up = ["step", *["step with gradient"] * (torch_resnet.WARM_UP - 1)]
    assert log == ["wait", "on the side", *warm_up, "capture", "step", "captured"]
    replay(batch + 10)
    assert log[-1] == "replay"
    assert fed[-1].tolist() == [10, 11, 12, 13]
    assert batch.tolist() == [0, 1, 2, 3]
