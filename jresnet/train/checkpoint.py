"""The checkpoints of a run: Orbax, atomic, named by the number of updates done."""

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from jresnet.errors import Diverged, InputError, Interrupted, first_line
from jresnet.parallel import distributed
from jresnet.parallel.devices import checkpoint_sharding
from jresnet.train.step import Metrics, TrainState


class Checkpoints:
    """Writes and reads the checkpoints in one directory; a context manager that waits for pending writes.

    Args:
      directory: created with the first checkpoint.
      keep: how many of the latest to keep; None for all.
      read_only: only read, possibly while a run is writing.
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

        The arrays must not change until the write is finished. A collective.
        """
        manager = self._open()
        if step in manager.all_steps():
            return
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self._open().all_steps()) if self._directory.is_dir() else []

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Read the checkpoint of `step` with the shapes, dtypes and shardings of `like`; return pytree and dict.

        Raises:
          InputError: it is damaged or belongs to another network.
        """
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
        return checkpoint.state, checkpoint.meta

    def close(self) -> None:
        """Wait until every checkpoint is written."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing, also after an error, unless that would wait for processes that are gone."""
        if kind is None or jax.process_count() == 1 or issubclass(kind, Interrupted | Diverged):
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._directory, options=self._options)
        return self._manager


def restore(
    checkpoints: Checkpoints, step: int, shapes: tuple[TrainState, Metrics]
) -> tuple[tuple[TrainState, Metrics], dict[str, Any]]:
    """The state and metrics saved at `step`, on this process's first device, and the metadata; a collective.

    Raises:
      InputError: the checkpoint is damaged or belongs to another network.
    """
    sharding = checkpoint_sharding()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
    saved, meta = checkpoints.restore(step, like)
    state, metrics = jax.tree.map(lambda leaf: leaf.addressable_data(0), saved)
    return (TrainState(**vars(state)), Metrics(*metrics)), meta
