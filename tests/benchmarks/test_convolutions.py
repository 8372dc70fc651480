"""The comparison of a device's convolutions with the CPU's: it covers the network, and notices what is wrong."""

import json

import jax
import pytest

from benchmarks import convolutions
from benchmarks.convolutions import Shape, shapes
from jresnet import models
from jresnet.config import Config
from jresnet.models.convolution import conv_general_dilated


def test_the_shapes_are_those_of_the_networks_kernels():
    """The kernels of an initialised network, with their multiplicity left out."""
    network = models.from_config(Config(width=6, kernel_size=5), 10)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    variables = jax.eval_shape(lambda images: network.init(jax.random.key(0), images, train=False), images)
    kernels = {leaf.shape for leaf in jax.tree.leaves(variables["params"]) if len(leaf.shape) == 4}
    found = shapes(6, 5)
    assert {(shape.kernel, shape.kernel, shape.inputs, shape.outputs) for shape in found} == kernels
    assert len(found) == len(set(found)) == 11
    assert Shape(32, 6, 12, 5, 2) in found
    assert Shape(32, 6, 12, 1, 2) in found
    assert Shape(4, 48, 48, 5, 1) in found


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.01, 1)])
def test_a_wrong_convolution_fails(factor, status, tmp_path, monkeypatch):
    """One per cent too much is noticed in float32, and in all results."""
    few = [Shape(8, 3, 4, 3, 1), Shape(8, 4, 6, 1, 2)]
    monkeypatch.setattr(convolutions, "shapes", lambda width, kernel_size: few)

    def wrong(images, kernel, **options):
        return conv_general_dilated(images, kernel * factor, **options)

    monkeypatch.setattr(models, "conv_for", lambda platform: lambda: wrong)
    path = tmp_path / "record.json"
    words = ["--widths", "4", "--batch", "2", "--precisions", "float32", "bfloat16", "--output", str(path)]
    assert convolutions.main(words) == status
    exact, rounded = json.loads(path.read_text())["cases"]
    assert exact["shapes"] == 2
    results = [name.partition(" of (")[0] for name in exact["failed"]]
    assert results == (["output", "gradient of images", "gradient of kernel"] * 2 if status else [])
    assert rounded["failed"] == []
    assert 1e-4 < rounded["largest_error"] < 3e-2


def test_what_stops_the_program_is_recorded(tmp_path, monkeypatch):
    def broken(images, kernel, **options):
        raise NotImplementedError("no kernel for this shape")

    monkeypatch.setattr(models, "conv_for", lambda platform: lambda: broken)
    path = tmp_path / "record.json"
    words = ["--widths", "4", "--batch", "2", "--precisions", "float32", "--output", str(path)]
    assert convolutions.main(words) == 1
    assert json.loads(path.read_text())["cases"][0]["failed"] == ["NotImplementedError: no kernel for this shape"]
