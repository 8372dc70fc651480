"""The checkpoints of a run: Orbax, atomic, named by the number of updates done."""

import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from jresnet.errors import Diverged, InputError, Interrupted, first_line
from jresnet.parallel import distributed


class Checkpoints:
    """Writes and reads the checkpoints in one directory; a context manager that waits for pending writes.

    The directory is created with the first of them, and the latest `keep` are kept, all for None. With `read_only` a
    run may be writing at the same time.
    """

    def __init__(self, directory: pathlib.Path, keep: int | None = 2, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep) if keep else None,
            cleanup_tmp_directories=not read_only,
            create=False,
            read_only=read_only,
        )
        self._directory = pathlib.Path(directory).resolve()
        self._manager: ocp.CheckpointManager | None = None

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Write a pytree of arrays and a JSON-serialisable dict in the background; an existing step is left as it is.

        Every process gives the same arrays, on its first device. A collective.
        """
        manager = self._open()
        if step in manager.all_steps():
            return
        # A copy: training goes on and donates the state's buffers while the files are written.
        state = jax.tree.map(jnp.copy, state)
        if jax.process_count() > 1:
            sharding = _sharding()
            state = jax.tree.map(lambda a: jax.make_array_from_single_device_arrays(a.shape, sharding, [a]), state)
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self._open().all_steps()) if self._directory.is_dir() else []

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Read the checkpoint of `step` with the shapes and dtypes of `like`; return pytree and dict. A collective.

        The arrays are on this process's first device.

        Raises:
          InputError: it is damaged or belongs to another network.
        """
        sharding = _sharding()
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        try:
            checkpoint = self._open().restore(step, args=args)
        except Exception as error:  # Orbax raises whatever its layers do
            if distributed.is_lost_peer(error):
                raise
            raise InputError(
                f"{self._directory / str(step)}: this checkpoint cannot be restored ({first_line(error)[:200]}): "
                "delete it to continue from an earlier one, or choose another --workdir"
            ) from error
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), checkpoint.state), checkpoint.meta

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing, also after an error, unless that would wait for processes that are gone."""
        together = kind is None or jax.process_count() == 1 or issubclass(kind, Interrupted | Diverged)
        if self._manager is not None and together:
            self._manager.close()
            self._manager = None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._directory, options=self._options)
        return self._manager


def _sharding() -> jax.sharding.Sharding:
    """Replicated over the first device of every process."""
    if jax.process_count() == 1:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = jax.sharding.Mesh(np.array([firsts[index] for index in sorted(firsts)]), ("processes",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
