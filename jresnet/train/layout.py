"""How a train state lies in memory while it trains: as its trees of arrays, or for GPUs as one vector.

A layout is a pair of functions, `pack` and `unpack`, that a compiled program applies before its first and after its
last step, and what a step needs in between. Networks, checkpoints and everything else only know trees.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jresnet.train.state import TrainState


class Layout:
    """Every array by itself; also the interface that `make_train_step` works with."""

    def pack(self, state: TrainState) -> TrainState:
        """The state in this layout."""
        return state

    def unpack(self, state: TrainState) -> TrainState:
        """The state as trees again: the inverse of `pack`."""
        return state

    def params(self, packed: Any) -> Any:
        """The network's tree of parameters, from the `params` of a packed state."""
        return packed

    def gradients(self, grads: Any) -> Any:
        """The gradients of that tree as the optimizer takes them."""
        return grads

    def master(self, packed: Any) -> Any:
        """What the optimizer updates, from the `params` of a packed state."""
        return packed

    def updated(self, master: Any) -> Any:
        """The `params` of a packed state after an update of `master`."""
        return master

    def spread(self, marks: Any) -> Any:
        """Booleans, one for every array in the network's tree of parameters, as conditions for those of `master`."""
        return marks


TREES = Layout()


class Packed(NamedTuple):
    """The parameters in a `VectorLayout`.

    Attributes:
      vector: [parameters], all of them, in their own dtype, float32 in every run.
      kernels: a copy of the convolutions', [outputs, height, width, inputs], in the dtype of the arithmetic.
    """

    vector: jax.Array
    kernels: tuple[jax.Array, ...]


class VectorLayout(Layout):
    """All parameters in one vector, all momenta and all averages: the optimizer is one kernel, not one for every array.

    The kernels of convolutions lie in cuDNN's order of axes, in which their gradients come. Their copy in the dtype of
    the arithmetic is made once per update; made where a convolution needs it, it takes a kernel for each.
    """

    def __init__(self, state: TrainState, dtype: Any):
        leaves = jax.tree.leaves(state.params)
        self._structure: Any = jax.tree.structure(state.params)
        self._shapes, self._param_dtype = [leaf.shape for leaf in leaves], leaves[0].dtype
        self._beside, self._dtype = (state.opt_state, state.average), dtype

    def pack(self, state: TrainState) -> TrainState:
        """See `Layout.pack`."""

        def pack(tree: Any) -> Any:
            return self._join(tree) if self._is_params(tree) else tree

        opt_state, average = jax.tree.map(pack, (state.opt_state, state.average), is_leaf=self._is_params)
        params = self.updated(self._join(state.params))
        return state.replace(params=params, opt_state=opt_state, average=average)

    def unpack(self, state: TrainState) -> TrainState:
        """See `Layout.unpack`."""

        def unpack(like: Any, packed: Any) -> Any:
            return self._tree(self._pieces(packed)) if self._is_params(like) else packed

        packed = state.opt_state, state.average
        opt_state, average = jax.tree.map(unpack, self._beside, packed, is_leaf=self._is_params)
        params = self._tree(self._pieces(state.params.vector))
        return state.replace(params=params, opt_state=opt_state, average=average)

    def params(self, packed: Packed) -> Any:
        """See `Layout.params`; the convolutions' kernels in the dtype of the arithmetic."""
        kernels = iter(packed.kernels)
        return self._tree(next(kernels) if piece.ndim == 4 else piece for piece in self._pieces(packed.vector))

    def gradients(self, grads: Any) -> jax.Array:
        """See `Layout.gradients`."""
        return self._join(grads)

    def master(self, packed: Packed) -> jax.Array:
        """See `Layout.master`."""
        return packed.vector

    def updated(self, master: jax.Array) -> Packed:
        """See `Layout.updated`."""
        return Packed(master, tuple(p.astype(self._dtype) for p in self._pieces(master) if p.ndim == 4))

    def spread(self, marks: Any) -> jax.Array:
        """See `Layout.spread`."""
        pairs = zip(self._shapes, jax.tree.leaves(marks), strict=True)
        return jnp.concatenate([jnp.full(math.prod(shape), mark) for shape, mark in pairs])

    def _is_params(self, tree: Any) -> bool:
        """Whether this part of an optimizer's state or of the averages has an array for every parameter."""
        return bool(jax.tree.structure(tree) == self._structure)

    def _join(self, tree: Any) -> jax.Array:
        leaves = (leaf.transpose(3, 0, 1, 2) if leaf.ndim == 4 else leaf for leaf in jax.tree.leaves(tree))
        return jnp.concatenate([leaf.reshape(-1).astype(self._param_dtype) for leaf in leaves])

    def _pieces(self, vector: jax.Array) -> Iterator[jax.Array]:
        start = 0
        for shape in self._shapes:
            stop = start + math.prod(shape)
            yield vector[start:stop].reshape((shape[3], *shape[:3]) if len(shape) == 4 else shape)
            start = stop

    def _tree(self, pieces: Iterator[jax.Array]) -> Any:
        leaves = [piece.transpose(1, 2, 3, 0) if piece.ndim == 4 else piece for piece in pieces]
        return jax.tree.unflatten(self._structure, leaves)


def resized(tree: Any, like: Any) -> Any:
    """Every array with the shape it has in `like`: zeros added at the end of its axes, or their ends cut off."""

    def resize(array: jax.Array, like: Any) -> jax.Array:
        if array.shape == like.shape:
            return array
        ends = [(0, new - old, 0) for old, new in zip(array.shape, like.shape, strict=True)]
        return lax.pad(array, jnp.zeros((), array.dtype), ends)

    return jax.tree.map(resize, tree, like)
