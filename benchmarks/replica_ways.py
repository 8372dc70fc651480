"""Ways of training several replicas of one network, each with a seed and a learning rate of its own.

All of them use the library's own step on the library's own batches, and so come to the parameters that each
replica comes to alone; `difference` says how nearly.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.jax_step import STATISTICS, pool
from benchmarks.timing import POOL_IMAGES, Case
from jresnet import models
from jresnet.config import Config
from jresnet.data.pipeline import Resident, batches_of, plan_for
from jresnet.parallel.devices import Devices
from jresnet.train import optim
from jresnet.train.programs import init_program, train_program
from jresnet.train.step import make_train_step

RATES = (0.01, 0.005, 0.001)
"""Learning rates that replicas have in turn, those of the report's section 4.2.1."""


class Replicas:
    """What every way starts from; replica i has seed i and the learning rate RATES[i % 3].

    Attributes:
      count: how many.
      model: their network.
      tx: their optimizer; rates are in its state.
      fetch: makes their batches.
      devices: where they run.
      steps: steps of an epoch, whose batches come again and again.
      data: images, labels, mean and standard deviation on the device, which all share.
      plans: each replica's order of the images and their augmentations, [steps, batch, ...].

    Args:
      case: what one step of one replica works on.
      count: how many.
      images: from which batches are made; what is left of the last batch is not used.
      model: another network than the case's.
    """

    def __init__(self, case: Case, count: int, images: int = POOL_IMAGES, model: models.ResNet | None = None):
        config = Config(width=case.width, batch_size=case.batch_size, precision=case.precision, parallel="jit")
        self.count, self.steps = count, images // case.batch_size
        self.model = model or models.from_config(config, 10).clone(
            conv_general_dilated_cls=models.conv_for(jax.default_backend())
        )
        self.tx = optim.shared_optimizer(config, self.steps)
        self.devices = Devices(config, jax.devices()[:1])
        self._init = init_program(self.model, self.tx, (32, 32, 3))
        self._weight_decay = config.weight_decay
        split = pool(self.steps * case.batch_size)
        source = Resident(split, config, 0, STATISTICS, self.devices)
        self.fetch, self.data = source.fetch, source.data
        self.plans = [batches_of(plan_for(config, seed, 0, len(split)), case.batch_size, 1)[0] for seed in range(count)]

    def start(self) -> list[tuple]:
        """Each replica's state and sums before its first step."""
        return [self._init(seed, RATES[seed % len(RATES)], self._weight_decay) for seed in range(self.count)]


class Way(Protocol):
    """A way of training replicas."""

    def train(self, steps: int) -> None:
        """Train every replica for so many steps, and return once the device has finished them."""

    def variables(self) -> list[Any]:
        """Each replica's parameters and running statistics."""


class Apart:
    """One program per replica, the library's own, with one call for all steps.

    Args:
      replicas: what is trained.
      spread: calls a function for every one of some numbers, and so says how the calls follow one another.
    """

    def __init__(self, replicas: Replicas, spread: Callable[[Callable[[int], Any], range], None]):
        self.program = train_program(replicas.model, replicas.tx, replicas.fetch, replicas.devices)
        self.arrays = [(replicas.data, plan, None) for plan in replicas.plans]
        self.carries, self.spread, self.places = replicas.start(), spread, places(replicas.steps)

    def train(self, steps: int) -> None:
        """See `Way.train`."""
        first = self.places(steps)

        def advance(i: int):
            self.carries[i] = self.program(*self.carries[i], self.arrays[i], first, first + steps)
            return self.carries[i]

        self.spread(advance, range(len(self.carries)))

    def variables(self) -> list[Any]:
        """See `Way.variables`."""
        return [state.variables for state, _ in self.carries]


def blocked(advance: Callable[[int], Any], numbers: range) -> None:
    """One replica after another, as separate runs: the next starts when the last has finished."""
    for i in numbers:
        jax.block_until_ready(advance(i))


def dispatched(advance: Callable[[int], Any], numbers: range) -> None:
    """All calls at once from one thread, which waits after the last of them only."""
    jax.block_until_ready([advance(i) for i in numbers])


def threaded(advance: Callable[[int], Any], numbers: range) -> None:
    """Every call from a thread of its own, so that one that waits for the device keeps no other from it."""
    with ThreadPoolExecutor(len(numbers)) as threads:
        jax.block_until_ready(list(threads.map(advance, numbers)))


class Together:
    """One program that takes a step of every replica, then the next step of every replica.

    Args:
      replicas: what is trained.
      each: `(step, carry, arrays, i) -> carry`, traced: takes step i of every replica, where `step` takes one's.
      carry: states and sums of all replicas.
      arrays: what their batches are made of.
      separate: the replicas of a carry as a list.
    """

    def __init__(self, replicas: Replicas, each: Callable, carry: Any, arrays: Any, separate: Callable[[Any], list]):
        train_step = make_train_step(replicas.model, replicas.tx)

        def step(carry, arrays, i):
            state, sums = carry
            state, more = train_step(state, replicas.fetch(arrays, i))
            return state, sums + more

        def program(carry, arrays, first, last):
            return lax.fori_loop(first, last, lambda i, carry: each(step, carry, arrays, i), carry)

        self.program = replicas.devices.compile(program, donate=(0,))
        self.carry, self.arrays, self.separate = carry, arrays, separate
        self.places = places(replicas.steps)

    def train(self, steps: int) -> None:
        """See `Way.train`."""
        first = self.places(steps)
        self.carry = jax.block_until_ready(self.program(self.carry, self.arrays, first, first + steps))

    def variables(self) -> list[Any]:
        """See `Way.variables`."""
        return [state.variables for state, _ in self.separate(self.carry)]


def unrolled(replicas: Replicas) -> Together:
    """The steps of the replicas stand beside each other in the program; none needs what another makes."""

    def each(step, carry, arrays, i):
        return [step(*one, i) for one in zip(carry, arrays, strict=True)]

    return Together(replicas, each, replicas.start(), [(replicas.data, plan, None) for plan in replicas.plans], list)


def vmapped(replicas: Replicas, convolve: Callable | None = None) -> Together:
    """One step on arrays with a leading axis of replicas; their convolutions are the groups of a grouped one.

    Args:
      replicas: what is trained.
      convolve: takes the place of the convolution.
    """

    def each(step, carry, arrays, i):
        with nn.intercept_methods(partial(_instead, convolve)) if convolve else contextlib.nullcontext():
            return jax.vmap(step, in_axes=(0, (None, 0, None), None))(carry, arrays, i)

    arrays = replicas.data, stacked(replicas.plans), None
    return Together(replicas, each, stacked(replicas.start()), arrays, partial(unstacked, count=replicas.count))


def _instead(convolve, call, args, kwargs, context):
    """Put `convolve` in the place of a network's convolutions."""
    conv = context.module
    if not isinstance(conv, nn.Conv) or context.method_name != "__call__":
        return call(*args, **kwargs)
    kernel: Any = conv.get_variable("params", "kernel")
    return convolve(args[0].astype(conv.dtype), kernel.astype(conv.dtype), conv.strides)


def convolve_by_product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution as the product of the patches under the kernel with the kernel as a matrix."""
    side = kernel.shape[0]
    pad = side // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    bottom, right = (stride * (-(-size // stride) - 1) + 1 for size in x.shape[1:3])
    patches = jnp.concatenate(
        [
            padded[:, row : row + bottom : stride, column : column + right : stride]
            for row in range(side)
            for column in range(side)
        ],
        -1,
    )
    return jnp.einsum("nhwi,io->nhwo", patches, kernel.reshape(-1, kernel.shape[-1]))


IN_TURN = "in turn"
"""The name of what is done today."""

WAYS: dict[str, Callable[[Replicas], Way]] = {
    IN_TURN: lambda replicas: Apart(replicas, blocked),
    "dispatched": lambda replicas: Apart(replicas, dispatched),
    "threads": lambda replicas: Apart(replicas, threaded),
    "unrolled": unrolled,
    "vmap": vmapped,
    "products": partial(vmapped, convolve=convolve_by_product),
}
"""Every way by its name."""


def places(length: int) -> Callable[[int], int]:
    """Where a call of so many steps, at most `length`, begins in an epoch of `length`: at 0 where the rest is short."""
    end = 0

    def place(steps: int) -> int:
        nonlocal end
        first = end if end + steps <= length else 0
        end = first + steps
        return first

    return place


def stacked(trees: list[Any]) -> Any:
    """Trees of equal shape as one with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree: Any, count: int) -> list[Any]:
    """The inverse of `stacked`, for `count` trees."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def difference(found: Any, alone: Any, start: Any) -> float:
    """How far trees of arrays are from the expected ones, relative to how far training went from the start.

    Returns:
      The largest, over arrays, of |found - alone| / |alone - start|, Euclidean: 1 for an array that was not
      trained at all.
    """

    shares = []
    for leaves in zip(*map(jax.tree.leaves, (found, alone, start)), strict=True):
        ours, expected, before = (np.asarray(leaf, np.float64) for leaf in leaves)
        shares.append(float(np.linalg.norm(ours - expected) / np.linalg.norm(expected - before)))
    return max(shares)
