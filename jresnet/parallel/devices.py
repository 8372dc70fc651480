"""Where the program runs: jitted on one device or pmapped over those of one or several processes.

A batch is shared out over the devices in their order, so that process 0 has the first images of each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.jax_utils
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.parallel.compiler import compiler_options

AXIS = "devices"


class Devices:
    """The devices one run uses: `count` of them; `axis_name` is their mapped axis, None for one jitted device.

    With a mapped axis every array handed to a compiled function has a leading axis of this process's
    devices. Two that mean the same devices are equal, so that they can share compiled programs.

    Args:
      config: says which form (`parallel`) and the global batch size.
      devices: those of this process to use, where they are not all; not among several processes.

    Raises:
      InputError: the batch does not divide among the devices, one device is asked of several processes, or
        the processes have different numbers of devices.
    """

    def __init__(self, config: Config, devices: Sequence[jax.Device] | None = None):
        self._chosen = None if devices is None else tuple(devices)
        processes = jax.process_count()
        available = jax.device_count() if devices is None else len(devices)
        pmapped = config.parallel == "pmap" or (config.parallel == "auto" and available > 1)
        self.count = available if pmapped else 1
        self.axis_name = AXIS if pmapped else None
        self._first = jax.process_index() * self.count // processes
        self._own = self.count // processes
        if processes > 1 and not pmapped:
            raise InputError(f"--parallel jit: uses one device, but {processes} processes run: choose pmap")
        if pmapped and devices is None and self._own != jax.local_device_count():
            raise InputError(
                f"{available} devices: not the same number in each of {processes} processes: give each as many"
            )
        if config.batch_size % self.count:
            lower = config.batch_size // self.count * self.count
            sizes = " or ".join(str(size) for size in (lower, lower + self.count) if size)
            raise InputError(
                f"--batch-size {config.batch_size}: does not divide among {self.count} devices: "
                f"choose {sizes}, or --parallel jit for one device"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Devices) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple:
        return self.count, self.axis_name, self._chosen

    def compile(self, function: Callable, donate: tuple[int, ...] = (), broadcast: tuple[int, ...] = ()) -> Callable:
        """Compile `function`; `donate` its arguments of these positions, hand those in `broadcast` to all devices."""
        if self.axis_name is None:
            return jax.jit(function, donate_argnums=donate, compiler_options=compiler_options())
        axes = tuple(None if i in broadcast else 0 for i in range(function.__code__.co_argcount))
        return jax.pmap(function, self.axis_name, in_axes=axes, donate_argnums=donate, devices=self._chosen)

    def replicate(self, tree: Any) -> Any:
        """Put the tree's arrays, whole, on every device."""
        return jax.device_put(tree) if self.axis_name is None else flax.jax_utils.replicate(tree, self._chosen)

    def unreplicate(self, tree: Any) -> Any:
        """The tree as one device holds it."""
        return tree if self.axis_name is None else flax.jax_utils.unreplicate(tree)

    def own(self, tree: Any) -> Any:
        """Of arrays [steps, batch, ...] this process's part of every batch, which must divide among all devices."""
        if self._own == self.count:
            return tree

        def one(array):
            share = array.shape[1] // self.count
            return array[:, self._first * share : (self._first + self._own) * share]

        return jax.tree.map(one, tree)

    def split(self, tree: Any) -> Any:
        """Share a process's `own` arrays [steps, batch, ...] out over its devices along the batch."""

        def one(array):
            if self.axis_name is None:
                return jnp.asarray(array)
            steps, batch, *rest = array.shape
            return jnp.asarray(array).reshape(steps, self._own, batch // self._own, *rest).swapaxes(0, 1)

        return jax.tree.map(one, tree)

    def gather(self, tree: Any) -> Any:
        """Inside a compiled function: all devices' arrays on every device, with a leading axis of devices."""
        return tree if self.axis_name is None else lax.all_gather(tree, self.axis_name)

    def join(self, array: jax.Array) -> np.ndarray:
        """The inverse of `own` and `split`: what `gather` made of arrays [steps, share, ...], whole, on the host."""
        fetched = np.asarray(self.unreplicate(array))
        if self.axis_name is None:
            return fetched
        count, steps, share, *rest = fetched.shape
        return fetched.swapaxes(0, 1).reshape(steps, count * share, *rest)

    def shared(self, tree: Any) -> Any:
        """Arrays that every process has on its first device as arrays of the whole run, as `placement` puts them."""
        if jax.process_count() == 1:
            return tree
        return jax.tree.map(lambda a: jax.make_array_from_single_device_arrays(a.shape, placement(), [a]), tree)


def placement() -> jax.sharding.Sharding:
    """How a checkpoint's arrays lie: whole, on the first device of every process."""
    if jax.process_count() == 1:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = jax.sharding.Mesh(np.array([firsts[index] for index in sorted(firsts)]), ("processes",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
