"""A PyTorch twin of a small ResNet, and its tensors under this library's names."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from jresnet.models import ResNet


@dataclasses.dataclass(frozen=True)
class Case:
    """A network both libraries build."""

    blocks: tuple[int, ...]
    kernel_size: int
    pool_size: int
    image_size: tuple[int, int]
    width: int = 4
    num_classes: int = 7

    def ours(self, dtype):
        return ResNet(
            stage_sizes=self.blocks, width=self.width, kernel_size=self.kernel_size, pool_size=self.pool_size,
            num_classes=self.num_classes, dtype=dtype, param_dtype=dtype,
        )  # fmt: skip

    def theirs(self):
        torch = pytest.importorskip("torch")
        from benchmarks import torch_resnet
        from tests.support.torch_family import randomise

        torch.manual_seed(0)
        network = torch_resnet.ResNet(
            self.width, self.blocks, self.kernel_size, self.pool_size, self.num_classes, self.image_size
        )
        return randomise(network.double())


LEAVES = {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}


def from_torch(tensors):
    """PyTorch's named tensors (parameters, buffers or gradients) in the structure and layouts of our variables."""
    variables = {}
    for name, tensor in tensors:
        *path, leaf = name.split(".")
        values = tensor.detach().numpy().copy()
        if leaf == "num_batches_tracked":
            continue
        if path == ["linear"]:
            entry = ("params", "linear", "kernel" if leaf == "weight" else "bias")
            values = values.T if leaf == "weight" else values
        elif path[-1].startswith("conv") or path[-2:] == ["shortcut", "0"]:
            entry, values = ("params", *our_path(path), "kernel"), values.transpose(2, 3, 1, 0)
        else:
            collection, leaf = LEAVES.get(leaf, ("params", "scale" if leaf == "weight" else "bias"))
            entry = (collection, *our_path(path), leaf)
        variables[entry] = values
    return unflatten_dict(variables)


def our_path(path):
    """layer1.0.conv1 -> layer1_0, conv1; layer2.0.shortcut.1 -> layer2_0, shortcut_bn."""
    if len(path) == 1:
        return path
    stage, block, *module = path
    module = {"0": "shortcut_conv", "1": "shortcut_bn"}[module[1]] if len(module) == 2 else module[0]
    return [f"{stage}_{block}", module]


def assert_close(actual, expected, relative):
    """The same tree, every entry within `relative` times its array's largest value."""
    chex.assert_trees_all_equal_shapes(actual, expected)
    scales = jax.tree.map(lambda a: np.abs(a).max() or np.finfo(np.float64).tiny, expected)
    scaled = [jax.tree.map(lambda a, scale: np.asarray(a) / scale, tree, scales) for tree in (actual, expected)]
    chex.assert_trees_all_close(*scaled, rtol=0, atol=relative)
