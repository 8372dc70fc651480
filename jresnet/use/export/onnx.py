"""ONNX from the traced network: every primitive of JAX becomes a node or two, so no network is defined twice.

What does not depend on the images is computed while translating. Images are traced as [n, height, width, channels],
where ONNX has [n, channels, height, width]: a tensor's order of axes is kept beside its name, transpositions only
change that order, and a node transposes where an operation needs another one.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from onnx import TensorProto, checker, helper, numpy_helper

from jresnet.errors import InputError
from jresnet.records import environment
from jresnet.use.classifier import Classifier
from jresnet.use.inference import any_images, probabilities

OPSET, IR_VERSION = 18, 8
"""Of ONNX 1.13; ONNX Runtime reads them from its version 1.14 on."""
INPUT, OUTPUT = "images", "probabilities"


class Tensor(NamedTuple):
    """An ONNX tensor that depends on the images.

    Attributes:
      name: in the graph.
      order: its axes, as those of the traced array: axis k here is axis `order[k]` there.
    """

    name: str
    order: tuple[int, ...]


Value = Tensor | np.ndarray
"""Of a traced variable; an array does not depend on the images."""


class Untranslatable(Exception):
    """A primitive, or a use of one, that has no translation here."""


def model(classifier: Classifier) -> bytes:
    """The ONNX model of `Classifier.predict` without resizing, in float32 whatever the run's precision.

    Raises:
      InputError: the network computes something that has no translation here.
    """
    network, run = classifier.model.clone(dtype=jnp.float32), classifier.run
    traced = jax.make_jaxpr(probabilities(network, run))(classifier.variables, any_images(run))
    graph = Graph()
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(classifier.variables)]
    try:
        (output,) = graph.run(traced.jaxpr, traced.consts, [*weights, Tensor(INPUT, (0, 1, 2, 3))])
    except Untranslatable as error:
        raise InputError(f"the network cannot be written as ONNX ({error}): export it as .stablehlo") from None
    graph.node("Identity", graph.aligned(output, (0, 1)), output=OUTPUT)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", *run.image_size, 3])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(run.classes)])]
    written = helper.make_model(
        helper.make_graph(graph.nodes, run.config.model, inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="jresnet", producer_version=environment.versions().get("jresnet", ""),
    )  # fmt: skip
    helper.set_model_props(written, {"classes": json.dumps(run.classes)})
    checker.check_model(written, full_check=True)
    data: bytes = written.SerializeToString(deterministic=True)
    return data


class Graph:
    """The nodes and constants of an ONNX graph, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator; returns the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, array: Any) -> str:
        """Add a constant; returns its name."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name))
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Add whole numbers, as of axes or sizes; returns their name."""
        return self.constant(np.array(values, np.int64))

    def aligned(self, value: Value, order: tuple[int, ...]) -> str:
        """The name of a value with its axes in this order; constants without axes, which fit any, as they are."""
        if not isinstance(value, Tensor):
            return self.constant(value.transpose(order) if value.ndim else value)
        if value.order == order:
            return value.name
        return self.node("Transpose", value.name, perm=[value.order.index(axis) for axis in order])

    def run(self, jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """Add what a traced function computes from its arguments; returns its results."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
        known |= zip(jaxpr.invars, arguments, strict=True)

        def read(atom: Any) -> Value:
            return np.asarray(atom.val, _traced(atom).dtype) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            outputs = self._outputs(equation, [read(atom) for atom in equation.invars])
            known |= zip(equation.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _outputs(self, equation: JaxprEqn, inputs: list[Any]) -> Sequence[Value]:
        called = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if called is not None:
            return self.run(called.jaxpr, called.consts, inputs)
        name = equation.primitive.name
        if not any(isinstance(value, Tensor) for value in inputs):
            return [np.asarray(equation.primitive.bind(*inputs, **equation.params))]
        if name not in TRANSLATIONS:
            raise Untranslatable(f"{name} has no translation")
        return [TRANSLATIONS[name](self, equation, *inputs)]


Translation = Callable[..., Tensor]
"""Adds the nodes of an equation: `(graph, equation, *inputs) -> output`; at least one input is a Tensor."""


def _traced(atom: Any) -> Any:
    """The shape and dtype with which a variable or a constant was traced."""
    return atom.aval


def _require(holds: bool, equation: JaxprEqn, rule: str) -> None:
    if not holds:
        raise Untranslatable(f"{equation.primitive.name}: {rule}")


def _elementwise(operator: str, **attributes: Any) -> Translation:
    def translate(graph: Graph, equation: JaxprEqn, *inputs: Value) -> Tensor:
        order = next(value.order for value in inputs if isinstance(value, Tensor))
        names = [graph.aligned(value, order) for value in inputs]
        return Tensor(graph.node(operator, *names, **attributes), order)

    return translate


def _subtraction(graph: Graph, equation: JaxprEqn, x: Value, y: Value) -> Tensor:
    """A constant is added with its sign changed, the same in every bit: runtimes fold sums into convolutions."""
    if isinstance(y, Tensor):
        return _elementwise("Sub")(graph, equation, x, y)
    return _elementwise("Add")(graph, equation, x, -y)


def _maximum(graph: Graph, equation: JaxprEqn, x: Value, y: Value) -> Tensor:
    if isinstance(x, Tensor) and not isinstance(y, Tensor) and not y.any():
        return _elementwise("Relu")(graph, equation, x)
    return _elementwise("Max")(graph, equation, x, y)


def _cast(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return _elementwise("Cast", to=dtype)(graph, equation, x)


def _convolution(graph: Graph, equation: JaxprEqn, x: Tensor, kernel: Value) -> Tensor:
    params = equation.params
    _require(set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1, equation, "of dilated images")
    axes = params["dimension_numbers"]
    output = graph.node(
        "Conv", graph.aligned(x, axes.lhs_spec), graph.aligned(kernel, axes.rhs_spec),
        strides=params["window_strides"], dilations=params["rhs_dilation"], group=params["feature_group_count"],
        pads=_pads(params["padding"]),
    )  # fmt: skip
    return Tensor(output, axes.out_spec)


def _pads(padding: Sequence[tuple[int, ...]]) -> list[int]:
    """What is added before every axis, then after every axis."""
    return [int(side) for sides in list(zip(*padding, strict=True))[:2] for side in sides]


def _pooling(operator: str, **attributes: Any) -> Translation:
    def translate(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
        names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
        window, strides, padding, *dilations = ([equation.params[name][axis] for axis in x.order] for name in names)
        holds = window[:2] == strides[:2] == [1, 1] and padding[:2] == [(0, 0)] * 2
        _require(holds and {*dilations[0], *dilations[1]} == {1}, equation, "of more than rows and columns")
        output = graph.node(
            operator, x.name, kernel_shape=window[2:], strides=strides[2:], pads=_pads(padding[2:]), **attributes
        )
        return Tensor(output, x.order)

    return translate


def _window_sum(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    mean = _pooling("AveragePool", count_include_pad=1)(graph, equation, x)
    count = np.float32(math.prod(equation.params["window_dimensions"]))
    return Tensor(graph.node("Mul", mean.name, graph.constant(count)), x.order)


def _reduction(operator: str) -> Translation:
    def translate(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
        axes = equation.params["axes"]
        output = graph.node(operator, x.name, graph.integers([x.order.index(axis) for axis in axes]), keepdims=0)
        kept = [axis for axis in x.order if axis not in axes]
        return Tensor(output, tuple(sorted(kept).index(axis) for axis in kept))

    return translate


def _transposed(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    permutation = equation.params["permutation"]
    return Tensor(x.name, tuple(permutation.index(axis) for axis in x.order))


def _reshaped(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return _with_shape(graph, equation, x, equation.params["new_sizes"])


def _broadcast(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    """The axes in their places among new ones of size 1, and these then of their own sizes."""
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes = dict(zip(axes, _traced(equation.invars[0]).shape, strict=True))
    output = _with_shape(graph, equation, x, [sizes.get(axis, 1) for axis in range(len(shape))])
    if all(sizes.get(axis, 1) == size for axis, size in enumerate(shape)):
        return output
    expanded = graph.node("Expand", output.name, graph.integers([1 if size < 0 else size for size in _sizes(shape)]))
    return Tensor(expanded, output.order)


def _with_shape(graph: Graph, equation: JaxprEqn, x: Tensor, shape: Sequence[Any]) -> Tensor:
    sizes = _sizes(shape)
    _require(sizes.count(-1) <= 1, equation, "to several unknown sizes")
    name = graph.aligned(x, tuple(range(len(x.order))))
    return Tensor(graph.node("Reshape", name, graph.integers(sizes)), tuple(range(len(sizes))))


def _sizes(shape: Sequence[Any]) -> list[int]:
    """A shape with -1 for the symbolic number of images."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _padded(graph: Graph, equation: JaxprEqn, x: Tensor, value: Value) -> Tensor:
    config = [equation.params["padding_config"][axis] for axis in x.order]
    _require(not any(interior for _, _, interior in config), equation, "between cells")
    pads = graph.integers(_pads(config))
    return Tensor(graph.node("Pad", x.name, pads, graph.aligned(value, ())), x.order)


def _sliced(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    names = ("start_indices", "limit_indices", "strides")
    starts, limits, strides = ([equation.params[name][axis] for axis in x.order] for name in names)
    axes = [axis for axis, size in enumerate(_sizes(limits)) if size != -1]
    whole = all(axis in axes or (starts[axis], strides[axis]) == (0, 1) for axis in range(len(limits)))
    _require(whole, equation, "of the images' number")
    slices = [graph.integers([values[axis] for axis in axes]) for values in (starts, limits)]
    steps = graph.integers([strides[axis] for axis in axes])
    return Tensor(graph.node("Slice", x.name, *slices, graph.integers(axes), steps), x.order)


def _product(graph: Graph, equation: JaxprEqn, x: Value, y: Value) -> Tensor:
    rule = "other than of the last axis of a matrix and the first of another"
    _require(equation.params["dimension_numbers"] == (((1,), (0,)), ((), ())), equation, rule)
    return Tensor(graph.node("MatMul", graph.aligned(x, (0, 1)), graph.aligned(y, (0, 1))), (0, 1))


def _same(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return x


TRANSLATIONS: dict[str, Translation] = {
    "add": _elementwise("Add"),
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "div": _elementwise("Div"),
    "dot_general": _product,
    "exp": _elementwise("Exp"),
    "logistic": _elementwise("Sigmoid"),
    "max": _maximum,
    "mul": _elementwise("Mul"),
    "pad": _padded,
    "reduce_max": _reduction("ReduceMax"),
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_window_max": _pooling("MaxPool"),
    "reduce_window_sum": _window_sum,
    "reshape": _reshaped,
    "slice": _sliced,
    "stop_gradient": _same,
    "sub": _subtraction,
    "transpose": _transposed,
}
"""By the names of JAX's primitives."""
