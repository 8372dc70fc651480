"""ONNX: in ONNX Runtime every network of the family gives what PyTorch computes in float64 from the same weights."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jresnet
from jresnet import models
from jresnet.config import Config
from jresnet.use.classifier import Classifier, described

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from jresnet.use.export import onnx as exported  # noqa: E402
from tests.models.test_parity import DEEP, KINDS, OPTIONS, case, short  # noqa: E402

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
MORE = [
    short("resnet20 B", 8),
    case("wide_resnet16_8", 12, width=4, stem_width=2, stage_sizes=(1, 1, 1)),
]
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in (*KINDS, *OPTIONS[1:], *MORE, *DEEP)]
CASES = [OPTIONS[0], *SLOW]  # the first has padded shortcuts of odd images


def session(data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def theirs(case, images):
    """PyTorch's network with statistics and logits as of a trained one, and its probabilities in float64."""
    network, head = case.theirs().double(), "fc" if case.layout == "torchvision" else "linear"
    pixels = (images / 255 - np.array(MEAN)) / np.array(STD)
    pixels = torch.tensor(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(pixels)
        logits, linear = network.eval()(pixels), network.get_submodule(head)
        linear.bias -= logits.mean(0)
        linear.weight /= logits.std(0).mean()
        linear.bias /= logits.std(0).mean()
        weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
        network.load_state_dict(weights)  # in float64, of the rounded values
        return weights, network(pixels).softmax(1).numpy()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_computes_what_pytorch_does(case):
    images = np.random.default_rng(0).integers(0, 256, (8, case.side, case.side, 3), np.uint8)
    state_dict, expected = theirs(case, images)
    assert expected.std(0).mean() > 0.05 and expected.max() < 0.99
    network = case.ours(jnp.float32)
    variables = jresnet.torch_weights.from_state_dict(state_dict, network, (case.side, case.side))
    member, classes = case.name.partition(" ")[0], [f"class {index}" for index in range(expected.shape[1])]
    run = described(Config(model=member), classes, (case.side, case.side), MEAN, STD)
    data = exported.model(Classifier(network, variables, run))
    written = onnx.load_from_string(data)
    onnx.checker.check_model(written, full_check=True)
    assert (written.opset_import[0].version, written.ir_version) == (18, 8)
    assert [prop.value for prop in written.metadata_props] == [str(classes).replace("'", '"')]
    runner = session(data)
    for batch in (slice(0, 1), slice(0, 3), slice(None)):
        (probabilities,) = runner.run(["probabilities"], {"images": images[batch]})
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected[batch], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("pool_size", [1, 2, 3])
@pytest.mark.parametrize("model", ["resnet18", "preact_resnet18"])
def test_several_pooled_cells_enter_the_linear_layer_in_their_order(model, pool_size):
    """Without a final ReLU sums of windows have both signs."""
    config = Config(model=model, width=4, blocks=(1, 1), pool_size=pool_size)
    network, size, rng = models.from_config(config, 5), (12, 14), np.random.default_rng(0)
    variables = models.init_fn(network)(jax.random.key(0), jnp.zeros((1, *size, 3)))
    shape = variables["params"]["linear"]["kernel"].shape
    variables["params"]["linear"]["kernel"] = rng.normal(0, 3 / shape[0] ** 0.5, shape).astype(np.float32)
    classifier = Classifier(network, variables, described(config, "abcde", size, MEAN, STD))
    images = np.zeros((4, *size, 3), np.uint8)
    for image, (rows, columns) in zip(images, itertools.product((slice(6), slice(6, 12)), repeat=2), strict=True):
        image[rows, columns] = rng.integers(0, 256, image[rows, columns].shape)  # in each a quarter of its own
    (probabilities,) = session(exported.model(classifier)).run(None, {"images": images})
    expected = classifier.predict(images)
    assert expected.std(0).mean() > 0.003 and expected.max() < 0.999
    np.testing.assert_allclose(probabilities, expected, atol=1e-5, rtol=0)


def translated(function, *inputs):
    """What ONNX Runtime computes of a function of one float32 array [n, ...], traced for a symbolic n."""
    graph = exported.Graph()
    (n,) = jax.export.symbolic_shape("n")
    shape = inputs[0].shape[1:]
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((n, *shape), jnp.float32))
    order = tuple(range(1 + len(shape)))
    (output,) = graph.run(traced.jaxpr, traced.consts, [exported.Tensor("x", order)])
    name = graph.aligned(output, tuple(range(len(output.order))))
    helper = onnx.helper
    described = helper.make_graph(
        graph.nodes, "test", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)], graph.initializers,
    )  # fmt: skip
    opset = helper.make_opsetid("", exported.OPSET)
    data = helper.make_model(described, opset_imports=[opset], ir_version=exported.IR_VERSION).SerializeToString()
    return [session(data).run(None, {"x": x})[0] for x in inputs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.maximum(x - 2, 1 - x), lambda x: np.maximum(x - 2, 1 - x)),
        (lambda x: jnp.maximum(x, 0) / x.transpose(0, 2, 1, 3), lambda x: np.maximum(x, 0) / x.transpose(0, 2, 1, 3)),
        (lambda x: x.transpose(0, 3, 1, 2).max(2) - 1, lambda x: x.transpose(0, 3, 1, 2).max(2) - 1),
        (
            lambda x: jax.lax.slice(x.transpose(0, 3, 1, 2), (0, 1, 1, 0), (x.shape[0], 2, 3, 4), (1, 1, 1, 2)),
            lambda x: x.transpose(0, 3, 1, 2)[:, 1:, 1:3, ::2],
        ),
        (
            lambda x: jnp.broadcast_to(x.sum((1, 2))[:, None], (x.shape[0], 5, 2)),
            lambda x: np.broadcast_to(x.sum((1, 2))[:, None], (x.shape[0], 5, 2)),
        ),
        (
            lambda x: jax.lax.pad(x.transpose(0, 3, 1, 2), 7.0, ((0, 0, 0), (1, 2, 0), (0, 3, 0), (-1, 0, 0))),
            lambda x: np.pad(x.transpose(0, 3, 1, 2), ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=7)[..., 1:],
        ),
    ],
)
def test_primitives_mean_what_they_mean_in_numpy(function, expected):
    """In orders of axes that no network of the family has, too."""
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(1, 2, (n, 4, 4, 2)).astype(np.float32) for n in (1, 3)]
    for x, output in zip(inputs, translated(function, *inputs), strict=True):
        np.testing.assert_allclose(output, expected(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sin(x), "sin has no translation"),
        (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 2), (1, 2, 2, 2), "VALID"),
         "reduce_window_sum: of more than rows and columns"),
        (lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), "pad: between cells"),
        (lambda x: jnp.einsum("nhwc,nhwd->ncd", x, x), "dot_general: other than of the last axis of a matrix"),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_refused(function, message):
    with pytest.raises(exported.Untranslatable, match=re.escape(message)):
        translated(function, np.zeros((1, 4, 4, 2), np.float32))


def test_the_refusal_is_one_line_with_a_remedy(monkeypatch):
    network = jresnet.ResNet((1,), width=2, pool_size=8)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    run = described(Config(), ["a", "b"], (8, 8), MEAN, STD)
    monkeypatch.delitem(exported.TRANSLATIONS, "div")
    with pytest.raises(jresnet.InputError, match=r"as ONNX \(div has no translation\): export it as \.stablehlo"):
        exported.model(Classifier(network, variables, run))
