"""A run's checkpoints, kept by Orbax: the state after some number of updates, whole or not at all."""

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from jresnet.errors import Diverged, InputError, Interrupted, first_line
from jresnet.parallel import distributed


class Checkpoints:
    """Writes and reads the checkpoints of one directory, named by updates done; close it to finish writing.

    Args:
      directory: made when the first checkpoint is written.
      keep: how many of the latest stay; None for all.
      read_only: only read, beside a run that may be writing.
    """

    def __init__(self, directory: pathlib.Path, keep: int | None = 2, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep) if keep else None,
            cleanup_tmp_directories=not read_only,
            create=False,
            read_only=read_only,
        )
        self._directory = pathlib.Path(directory).resolve()
        self._options = options
        self._manager: ocp.CheckpointManager | None = None

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Write a pytree of arrays and a JSON-able record under `step`, in the background; a step that exists stays.

        The arrays must stay as they are until then. All processes must call this together.
        """
        manager = self._open()
        if step in manager.all_steps():
            return
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))

    def steps(self) -> list[int]:
        """The steps there are, ascending; a checkpoint that was being written when its run died does not count."""
        return sorted(self._open().all_steps()) if self._directory.is_dir() else []

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """Read the checkpoint of `step` into the shapes, dtypes and placement of `like`; return state and record.

        Raises:
          InputError: it is damaged or holds another network's state.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        try:
            found = self._open().restore(step, args=args)
        except Exception as error:  # Orbax lets through whatever its layers raise
            if distributed.means_lost(error):
                raise
            raise InputError(
                f"{self._directory / str(step)}: this checkpoint cannot be restored ({first_line(error)[:200]}): "
                "delete it to go on from an earlier one, or choose another --workdir"
            ) from error
        return found.state, found.meta

    def close(self) -> None:
        """Wait until every checkpoint is written."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def __enter__(self) -> "Checkpoints":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing, whether or not the run succeeded; not where other processes would have to take part."""
        if kind is None or jax.process_count() == 1 or issubclass(kind, Interrupted | Diverged):
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._directory, options=self._options)
        return self._manager
