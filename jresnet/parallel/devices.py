"""The devices of a run: one under jit, or all devices of all processes under pmap.

Under pmap a batch is split over the devices in order, so process 0 holds the first images of every batch.
`jax.pmap` takes no compiler options; it is `jax.jit` of a `jax.shard_map` over arrays with a leading device axis, which
is written out here with them.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jresnet.config import Config
from jresnet.errors import InputError
from jresnet.parallel.compiler import compiler_options
from jresnet.records.environment import Execution, cpu_cores
from jresnet.rules import require

AXIS_NAME = "devices"


@dataclasses.dataclass(init=False, unsafe_hash=True)
class Devices:
    """The devices of one run.

    With a mapped axis, every array that a compiled function takes or returns has a leading axis over all devices, of
    which a process holds its own part; arguments that are the same for all have none. Equal `Devices` compile to the
    same programs and can share them.

    Args:
      config: its `parallel` chooses jit or pmap, its `batch_size` must divide among the devices.
      devices: the local devices to use (default: all); single-process runs only.
      options: of the compiler; they override those of `compiler_options`.

    Attributes:
      count: devices over all processes.
      axis_name: name of the mapped axis; None under jit.
      platform: of the devices, as "cpu" or "gpu".

    Raises:
      InputError: the batch does not divide among the devices, jit is chosen for several processes, or the processes
        have different numbers of devices.
    """

    # What equality and hash compare.
    count: int
    axis_name: str | None
    platform: str
    _devices: tuple[jax.Device, ...] | None
    _options: tuple[tuple[str, str], ...]

    def __init__(
        self,
        config: Config,
        devices: Sequence[jax.Device] | None = None,
        options: Mapping[str, str] | None = None,
    ):
        processes = jax.process_count()
        available = jax.device_count() if devices is None else len(devices)
        pmapped = config.parallel == "pmap" or (config.parallel == "auto" and available > 1)
        self.count = available if pmapped else 1
        self.axis_name = AXIS_NAME if pmapped else None
        # In the order of the processes, whose first devices hold the first images.
        everywhere = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        self._devices = tuple(everywhere if devices is None else devices) if pmapped else None
        self.platform = jax.default_backend() if devices is None else devices[0].platform
        defaults = compiler_options(self.platform, config.deterministic) or {}
        self._options = tuple((defaults | dict(options or {})).items())
        self._local_count = self.count // processes
        self._first_local = jax.process_index() * self.count // processes
        if processes > 1 and not pmapped:
            raise InputError(f"--parallel jit: uses one device, but {processes} processes are running: choose pmap")
        if pmapped and devices is None and self._local_count != jax.local_device_count():
            raise InputError(
                f"{available} devices over {processes} processes: every process needs the same number of devices: "
                "start each with equally many"
            )
        lower = config.batch_size // self.count * self.count
        sizes = " or ".join(str(size) for size in (lower, lower + self.count) if size)
        require(
            config, "batch_size", config.batch_size % self.count == 0,
            f"does not divide among {self.count} devices: choose {sizes}, or --parallel jit for one device",
        )  # fmt: skip

    def compile(
        self, function: Callable[..., Any], donate: tuple[int, ...] = (), broadcast: tuple[int, ...] = ()
    ) -> jax.stages.Wrapped:
        """Jit or pmap `function`, donating the arguments `donate`; those in `broadcast` have no device axis."""
        if self.axis_name is None:
            return jax.jit(function, donate_argnums=donate, compiler_options=self.options)
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        arguments = range(len(inspect.signature(function).parameters))
        shardings = tuple(everywhere if i in broadcast else self._split for i in arguments)

        def on_each(*arguments: Any) -> Any:
            own = (a if i in broadcast else jax.tree.map(lambda leaf: leaf[0], a) for i, a in enumerate(arguments))
            return jax.tree.map(lambda leaf: leaf[None], function(*own))

        specs = tuple(sharding.spec for sharding in shardings)
        mapped = jax.shard_map(on_each, mesh=self._mesh, in_specs=specs, out_specs=self._split.spec, check_vma=False)
        return jax.jit(mapped, in_shardings=shardings, donate_argnums=donate, compiler_options=self.options)

    @property
    def options(self) -> dict[str, str] | None:
        """Options of the compiler; None for none."""
        return dict(self._options) or None

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self._devices), (AXIS_NAME,))

    @property
    def _split(self) -> NamedSharding:
        """The sharding of an array's leading device axis."""
        return NamedSharding(self._mesh, PartitionSpec(AXIS_NAME))

    @property
    def execution(self) -> Execution:
        """How a run on these devices computes."""
        threads = cpu_cores() if self.platform == "cpu" else None
        return Execution("pmap" if self.axis_name else "jit", self.count, jax.local_devices()[0].device_kind, threads)

    def replicate(self, tree: Any) -> Any:
        """A pytree of arrays as compiled functions take it, with a copy on every device of this process."""
        # Committed to the default device, as what a checkpoint gives: one program serves fresh and resumed runs.
        tree = jax.device_put(tree, jnp.zeros(()).device)
        if self.axis_name is None:
            return tree
        return jax.tree.map(lambda leaf: self._assemble([jnp.asarray(leaf)[None]] * self._local_count), tree)

    def unreplicate(self, tree: Any) -> Any:
        """The pytree as the first local device holds it."""
        return tree if self.axis_name is None else jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], tree)

    def _assemble(self, parts: Sequence[jax.Array]) -> jax.Array:
        """One array over all processes' devices from this process's part for each of its own, [1, ...]."""
        devices = self._mesh.local_devices
        placed = [jax.device_put(part, device) for part, device in zip(parts, devices, strict=True)]
        return jax.make_array_from_single_device_arrays((self.count, *parts[0].shape[1:]), self._split, placed)

    def local_shard(self, tree: Any) -> Any:
        """This process's part of arrays [steps, batch, ...]; `batch` must be a multiple of `count`."""
        if self._local_count == self.count:
            return tree

        def shard(array: Any) -> Any:
            share = array.shape[1] // self.count
            return array[:, self._first_local * share : (self._first_local + self._local_count) * share]

        return jax.tree.map(shard, tree)

    def split(self, tree: Any) -> Any:
        """This process's arrays [steps, batch, ...], split over its devices: [devices, steps, batch / devices, ...].

        Under jit the arrays keep their shape.
        """

        def split(array: Any) -> jax.Array:
            if self.axis_name is None:
                return jnp.asarray(array)
            steps, batch, *rest = array.shape
            shape = (steps, self._local_count, batch // self._local_count, *rest)
            parts = jnp.asarray(array).reshape(shape).swapaxes(0, 1)
            return self._assemble(jnp.split(parts, self._local_count))

        return jax.tree.map(split, tree)

    def all_gather(self, tree: Any) -> Any:
        """Inside a compiled function: the arrays of all devices, with a leading device axis; under jit unchanged."""
        return tree if self.axis_name is None else lax.all_gather(tree, self.axis_name)

    def join(self, array: jax.Array) -> np.ndarray:
        """The result of `all_gather` on arrays [steps, batch / count, ...] as one host array [steps, batch, ...]."""
        gathered = np.asarray(self.unreplicate(array))
        if self.axis_name is None:
            return gathered
        count, steps, share, *rest = gathered.shape
        return gathered.swapaxes(0, 1).reshape(steps, count * share, *rest)
