"""State dicts in and out: exact both ways, the same function in PyTorch, and the faults of a wrong one counted."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jresnet
from jresnet.models import torch_weights

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.torch")

from benchmarks import torch_resnet  # noqa: E402
from tests.support.torch_family import randomise  # noqa: E402

WIDTH, CLASSES = 4, 7
MODEL = jresnet.resnet18(num_classes=CLASSES, width=WIDTH)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = randomise(torch_resnet.ResNet(WIDTH, num_classes=CLASSES)).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(3)
    return network


@pytest.fixture(scope="module")
def variables(network):
    return torch_weights.from_state_dict(network.state_dict(), MODEL)


def test_the_same_function(network, variables):
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    logits = jax.jit(lambda variables, images: MODEL.apply(variables, images, train=False))(variables, images)
    expected = network(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_variables_are_as_the_model_makes_them(variables):
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, dict(shapes))


def test_out_is_what_came_in_and_loads_in_torch(network, variables):
    state_dict = torch_weights.to_state_dict(variables, MODEL)
    expected = network.state_dict()
    assert state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(state_dict[name], tensor.numpy())
    fresh = torch_resnet.ResNet(WIDTH, num_classes=CLASSES)
    fresh.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(fresh.eval()(images), network(images))


def test_results_share_no_memory_with_their_sources(tmp_path):
    network = torch_resnet.ResNet(WIDTH, num_classes=CLASSES)
    start = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    variables = torch_weights.from_state_dict(network.state_dict(), MODEL)
    renamed = torch_weights.relayout(network.state_dict(), MODEL, "kuangliu")
    arrays = {name: array.copy() for name, array in start.items()}
    of_arrays = torch_weights.from_state_dict(arrays, MODEL)
    network(torch.ones(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()
    for array in arrays.values():
        array += 1
    exported = torch_weights.to_state_dict(variables, MODEL)
    for state_dict in (exported, torch_weights.to_state_dict(of_arrays, MODEL), renamed):
        chex.assert_trees_all_equal(state_dict, start)
    for suffix in (".pth", ".safetensors"):
        torch_weights.save(tmp_path / f"weights{suffix}", exported)
        loaded = torch_weights.load(tmp_path / f"weights{suffix}")
        for array in [*map(np.asarray, loaded.values()), *exported.values(), *renamed.values()]:
            array += 1  # raises if the array is read-only
    chex.assert_trees_all_equal(torch_weights.to_state_dict(variables, MODEL), start)


@pytest.mark.parametrize("layout", ["kuangliu", "torchvision"])
def test_in_out_in_is_exact(variables, layout):
    state_dict = torch_weights.to_state_dict(variables, MODEL, layout)
    chex.assert_trees_all_equal(torch_weights.from_state_dict(state_dict, MODEL), variables)


def test_torchvisions_names(variables):
    names = torch_weights.to_state_dict(variables, MODEL, "torchvision")
    assert {"fc.weight", "fc.bias", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var"} <= names.keys()
    assert not any("shortcut" in name or "linear" in name for name in names)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_are_dropped(network, variables, prefix):
    state_dict = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    chex.assert_trees_all_equal(torch_weights.from_state_dict(state_dict, MODEL), variables)


def test_several_pooled_cells_keep_their_order():
    theirs = torch_resnet.ResNet(2, (1, 1), 3, 2, CLASSES, (8, 12)).eval()
    model = jresnet.ResNet(stage_sizes=(1, 1), width=2, pool_size=2, num_classes=CLASSES)
    loaded = torch_weights.from_state_dict(theirs.state_dict(), model, (8, 12))
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(model.apply(loaded, images, train=False), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_any_precision_are_read_exactly(tmp_path, network, dtype, suffix):
    state_dict = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    path = tmp_path / f"weights{suffix}"
    torch.save(state_dict, path) if suffix == ".pth" else safetensors.torch.save_file(state_dict, path)
    loaded = torch_weights.load(path)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    renamed = torch_weights.relayout(loaded, MODEL, "torchvision")
    for name, tensor in state_dict.items():
        array = renamed[name.replace("linear", "fc").replace("shortcut", "downsample")]
        assert torch.equal(torch.from_numpy(array), tensor.to(wide) if tensor.is_floating_point() else tensor), name
    kernel = torch_weights.from_state_dict(loaded, MODEL)["params"]["conv1"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, state_dict["conv1.weight"].float().numpy().transpose(2, 3, 1, 0))


def test_faults_are_counted_and_the_first_of_each_kind_is_named(network):
    extra = {f"extra.{number}.{'x' * 300}": torch.zeros(5) for number in range(100)}
    state_dict = {**network.state_dict(), **extra, "linear.weight": torch.zeros(7, 9)}
    del state_dict["conv1.weight"]
    del state_dict["layer4.1.bn2.running_var"]
    with pytest.raises(jresnet.InputError) as caught:
        torch_weights.from_state_dict(state_dict, MODEL)
    message = str(caught.value)
    assert "2 missing, as conv1.weight (4, 3, 3, 3);" in message
    assert "100 unknown, as extra.0.xxx" in message and "xxx (5,);" in message
    assert "1 of another shape, as linear.weight (7, 9), not (7, 32)" in message
    assert message.endswith(": choose the network they belong to, and its images' size") and len(message) < 400


def test_variables_of_another_network_are_not_written(variables):
    with pytest.raises(jresnet.InputError, match=r"2 of another shape, as linear\.bias \(7,\), not \(10,\)"):
        torch_weights.to_state_dict(variables, jresnet.resnet18(num_classes=10, width=WIDTH))
    with pytest.raises(jresnet.InputError, match="layout keras: must be one of kuangliu, torchvision"):
        torch_weights.to_state_dict(variables, MODEL, "keras")


def test_values_that_no_network_has_are_named_or_refused(tmp_path, network, caplog):
    sound = network.state_dict()
    torch_weights.from_state_dict(sound, MODEL)
    assert not caplog.messages
    bias = torch.tensor([1.0, float("nan"), float("inf"), 0, 0, 0, 0])
    odd = {"bn1.running_var": -torch.ones(4), "linear.bias": bias}
    variables = torch_weights.from_state_dict(sound | odd, MODEL)
    np.testing.assert_array_equal(variables["params"]["linear"]["bias"], bias)
    (line,) = caplog.messages
    assert line.startswith("the state dict: bn1.running_var has negative values, as no variance has (4 of 4); other")

    wide = sound | {"linear.bias": torch.tensor([1e300, -1e39, 3e38, 1e-300, 0, 0, 0], dtype=torch.float64)}
    torch.save(wide, path := tmp_path / "wide.pth")
    rule = "linear.bias has values beyond the range of float32 (2 of 7)"
    for source, name in ((wide, "the state dict"), (path, path)):
        with pytest.raises(jresnet.InputError, match=f"^{re.escape(f'{name}: {rule}')}"):
            torch_weights.from_state_dict(source, MODEL)
    half = sound | {"linear.bias": torch.full((7,), 7e4)}
    with pytest.raises(jresnet.InputError, match=r"linear\.bias has values beyond the range of float16 \(7 of 7\)"):
        torch_weights.from_state_dict(half, MODEL.clone(param_dtype=jnp.float16))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "size", [(0, 0), (-3, 32), (28.5, 28), (32,), (32, 32, 3), 32, None, "ab", (True, True), (2**16, 2**15)]
)
def test_what_is_no_size_of_images_is_refused(network, variables, size):
    uses = (
        lambda: torch_weights.from_state_dict(network.state_dict(), MODEL, size),
        lambda: torch_weights.relayout(network.state_dict(), MODEL, "torchvision", size),
        lambda: torch_weights.to_state_dict(variables, MODEL, image_size=size),
    )
    for use in uses:
        with pytest.raises(jresnet.InputError, match=r"^image_size .*must be a height and a width in whole pixels"):
            use()


def of_channels(network, count):
    """A network's tensors with a first convolution of this many channels."""
    kernel = torch.arange(4 * count * 9, dtype=torch.float32).reshape(4, count, 3, 3) / 7
    return {**network.state_dict(), "conv1.weight": kernel}


def test_one_channel_becomes_three_thirds_and_this_is_said(network, caplog):
    gray = of_channels(network, 1)
    single, double = torch.float32, torch.float64
    for dtype, exact in ((single, single), (torch.float16, single), (double, double)):
        tensors = {**gray, "conv1.weight": gray["conv1.weight"].to(dtype)}
        kernel = torch_weights.from_state_dict(tensors, MODEL)["params"]["conv1"]["kernel"]
        third = (tensors["conv1.weight"].to(exact) / 3).float().numpy().transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(kernel, np.broadcast_to(third, (3, 3, 3, 4)))
    assert len(caplog.messages) == 3
    assert all(message.startswith("conv1.weight: takes one channel") for message in caplog.messages)
    renamed = torch_weights.relayout(gray, MODEL, "torchvision")
    np.testing.assert_array_equal(renamed["conv1.weight"], gray["conv1.weight"])


@pytest.mark.parametrize("count", [2, 4, 13])
def test_other_numbers_of_channels_are_refused(network, count):
    for use in (torch_weights.from_state_dict, functools.partial(torch_weights.relayout, layout="torchvision")):
        with pytest.raises(jresnet.InputError, match=f"conv1.weight: takes images of {count} channels.*take 3, or 1"):
            use(of_channels(network, count), MODEL)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_files_hold_every_bit(tmp_path, variables, suffix):
    path = tmp_path / f"weights{suffix}"
    torch_weights.save(path, torch_weights.to_state_dict(variables, MODEL))
    for source in (path, str(path), torch_weights.load(path)):
        chex.assert_trees_all_equal(torch_weights.from_state_dict(source, MODEL), variables)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_refused(tmp_path, variables):
    state_dict = torch_weights.to_state_dict(variables, MODEL)
    with pytest.raises(jresnet.InputError, match="must end in one of"):
        torch_weights.save(tmp_path / "weights.txt", state_dict)
    with pytest.raises(jresnet.CannotWrite, match="cannot be written"):
        torch_weights.save(tmp_path / "absent" / "weights.pth", state_dict)
    assert not list(tmp_path.iterdir())
