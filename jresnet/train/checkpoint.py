"""The checkpoints of a run: Orbax, atomic, named by the number of updates done, with a digest of every array."""

import dataclasses
import errno
import functools
import hashlib
import json
import logging
import pathlib
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from jresnet.errors import CannotWrite, Diverged, InputError, Interrupted, first_line
from jresnet.parallel import distributed
from jresnet.records import schema
from jresnet.records.environment import Execution
from jresnet.records.epoch import Epoch
from jresnet.records.files import FULL, Record, free_name, writing
from jresnet.records.run_directory import steps
from jresnet.records.schema import Checked, Count, NonNegative

DAMAGED = "checkpoints-damaged"
"""Beside the directory of the checkpoints: those that a run does not go on with, as they are damaged or superseded."""

_log = logging.getLogger(__name__)
_NO_ROOM = "RESOURCE_EXHAUSTED"  # TensorStore's status of a full disk, and XLA's of a full memory
_PASSING = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """What a checkpoint says beside its arrays."""

    seconds: NonNegative = 0.0
    """of training in the current epoch"""
    history: tuple[Annotated[Record, Checked(Epoch)], ...] | None = None
    """the records of the epochs before the current one, as in `metrics.jsonl`; None in checkpoints without digests"""
    execution: Execution | None = None
    """how the run was computed"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Verified(Meta):
    """A checkpoint's own record.

    `run` is the run's fingerprint; `digests` are the SHA-256 of the arrays, by their path in the state; `sha256` is
    that of everything else here.
    """

    run: str
    step: Count
    digests: dict[str, str]
    sha256: str = ""


class Damaged(InputError):
    """A checkpoint is not what was saved, or not of this run; an older one may be."""


def has_brackets(directory: pathlib.Path) -> bool:
    """Whether the absolute path of a directory has square brackets, see `Checkpoints`."""
    return not {*"[]"}.isdisjoint(str(directory.resolve()))


class Checkpoints:
    """Writes and reads the checkpoints in one directory; a context manager that waits for pending writes.

    The directory is created with the first of them, and the latest `keep` are kept, all for None. With `read_only` a
    run may be writing at the same time. `runs` are the fingerprints of the run that they are of, its present one first;
    none for any run's.
    """

    def __init__(
        self, directory: pathlib.Path, keep: int | None = 2, read_only: bool = False, runs: Sequence[str] = ()
    ):
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised, too
        _silence_leftovers()
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep) if keep else None,
            cleanup_tmp_directories=not read_only,
            create=False,
            read_only=read_only,
        )
        self._directory = pathlib.Path(directory).resolve()
        self._manager: ocp.CheckpointManager | None = None
        self._alias: tempfile.TemporaryDirectory[str] | None = None
        self._runs = tuple(runs)
        self._saved: int | None = None  # the latest step, perhaps not yet on disk

    def save(self, step: int, state: Any, meta: Meta) -> None:
        """Write a pytree of arrays in the background, with what is said of it; an existing step is left as it is.

        Every process gives the same arrays, on its first device. A collective.

        Raises:
          CannotWrite: this checkpoint or the one before cannot be written.
        """
        if step == self._saved or step in self.steps():
            return
        self._saved = step
        # A copy: training goes on and donates the state's buffers while the files are written.
        state = jax.tree.map(jnp.copy, state)
        record = _record(self._runs[0] if self._runs else "", step, digests(state), meta)
        if jax.process_count() > 1:
            sharding = _sharding()
            state = jax.tree.map(lambda a: jax.make_array_from_single_device_arrays(a.shape, sharding, [a]), state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(record))
        self._write(lambda: self._open().save(step, args=args))

    def wait(self) -> None:
        """Wait until what was saved is on disk; CannotWrite if that fails. A collective."""
        if self._manager is not None:
            self._write(self._manager.wait_until_finished)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return steps(self._directory)

    def restore(self, step: int, like: Any = None) -> tuple[Any, Meta]:
        """Read the checkpoint of `step` as a pytree with the structure, shapes and dtypes of `like`; a collective.

        The arrays are on this process's first device. Without `like` they are in dicts and lists.

        Raises:
          Damaged: it is not what was saved, or of another network, run or step.
          InputError: it cannot be read for want of permission, memory or open files.
        """
        path, sharding = self._directory / str(step), _sharding()
        if like is not None:
            like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
        args = ocp.args.Composite(
            # What was saved on other devices, too.
            state=ocp.args.StandardRestore(like, fallback_sharding=sharding), meta=ocp.args.JsonRestore()
        )  # fmt: skip
        checkpoint, error = _attempt(lambda: self._open().restore(step, args=args))
        if error is not None:
            problem = first_line(error)[:200]
            if getattr(error, "errno", None) in _PASSING or isinstance(error, MemoryError) or _NO_ROOM in str(error):
                raise InputError(f"{path}: this checkpoint cannot be read now ({problem}): try again, or elsewhere")
            raise Damaged(f"{path}: this checkpoint cannot be restored ({problem})")
        state = jax.tree.map(lambda leaf: leaf.addressable_data(0), checkpoint.state)
        return state, _checked(path, self._runs, step, checkpoint.meta, state)

    def restore_newest(self, like: Any) -> tuple[Any, Meta] | None:
        """Read the newest sound checkpoint, see `restore`; None if there are none at all. A collective.

        Each damaged one is named in a warning, and set aside unless `read_only`, as the run will write its step again.

        Raises:
          InputError: there are some, but none is sound.
        """
        problems: dict[int, str] = {}
        restored = None
        while left := [step for step in self.steps() if step not in problems]:
            step, problem = left[-1], ""
            try:
                restored = self.restore(step, like)
            except Damaged as error:
                problem = str(error)
                if self._options.read_only and not (self._directory / str(step)).exists():
                    self.close()  # the run has replaced it by a newer one
                    continue
            if distributed.process_max([bool(problem)]) == [0.0]:
                break
            restored, problems[step] = None, problem or f"{self._directory / str(step)}: damaged in another process"
        if problems and restored is None:
            raise InputError(
                f"{next(iter(problems.values()))}; no older one is sound: restore one from a copy, or move "
                f"{self._directory} away to train again from the start"
            )
        for problem in problems.values():
            _log.warning(f"{problem}: going on from an older one")
        if problems and not self._options.read_only:
            self.set_aside(problems)
        return restored

    def close(self) -> None:
        """Finish writing; CannotWrite if that fails."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                self._write(manager.close)
        finally:
            if self._alias is not None:
                self._alias.cleanup()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing, also after an error, unless that would wait for processes that are gone."""
        if kind is None:
            self.close()
        elif jax.process_count() == 1 or issubclass(kind, Interrupted | Diverged):
            try:
                self.close()
            except CannotWrite:
                if issubclass(kind, Interrupted):  # which says that the state is saved
                    raise

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._without_brackets(), options=self._options)
        return self._manager

    def _without_brackets(self) -> pathlib.Path:
        """The directory by a name without brackets, in which Orbax would see a pattern and find nothing."""
        if not has_brackets(self._directory):
            return self._directory
        self._alias = tempfile.TemporaryDirectory(prefix="jresnet-")
        alias = pathlib.Path(self._alias.name, "checkpoints")
        alias.symlink_to(self._directory)
        return alias

    def set_aside(self, unwanted: Iterable[int]) -> None:
        """Move checkpoints into the directory DAMAGED; nothing is deleted. A collective."""
        self.close()
        if distributed.is_primary():
            aside = self._directory.with_name(DAMAGED)
            with writing(aside):
                aside.mkdir(exist_ok=True)
                for step in unwanted:
                    (self._directory / str(step)).rename(free_name(aside / str(step)))
        distributed.process_max([0.0])  # no process goes on before

    def _write(self, call: Callable[[], Any]) -> None:
        """Make a call that writes, or waits until something is written; CannotWrite if it fails."""
        _, error = _attempt(call)
        if error is not None:
            full = _NO_ROOM in str(error) or getattr(error, "errno", None) in FULL
            # TensorStore's messages name temporary files at length.
            problem = "No space left on device" if full else first_line(error)[:200]
            remedy = "make room" if full else "check its directory"
            raise CannotWrite(f"{self._directory}: a checkpoint cannot be written ({problem}): {remedy}")


def digests(state: Any) -> dict[str, str]:
    """The SHA-256 of every array of a pytree, of its dtype, shape and bytes, by its path in the pytree."""
    paths, leaves = zip(*jax.tree.leaves_with_path(state), strict=True)
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        names = (jax.tree_util.keystr(path, simple=True, separator="/") for path in paths)
        return dict(zip(names, pool.map(_digest, leaves), strict=True))


def _digest(leaf: jax.Array) -> str:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    sha256 = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def _record(run: str, step: int, digests: dict[str, str], meta: Meta) -> Record:
    """A checkpoint's own record, complete."""
    record = schema.to_json(_Verified(**vars(meta), run=run, step=step, digests=digests))
    return record | {"sha256": _sum(record)}


def _sum(record: Record) -> str:
    """The SHA-256 of a checkpoint's own record without its sum."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _checked(path: pathlib.Path, runs: Sequence[str], step: int, record: Any, state: Any) -> Meta:
    """What a checkpoint's own record says, if it is of this run and step and agrees with its digests and the state."""
    if isinstance(record, dict) and record.keys() == {"seconds"}:
        _log.warning(f"{path}: is of a version without digests: its arrays are not verified")
        return schema.parse(Meta, record, path)
    try:
        verified = schema.parse(_Verified, record, path)
    except InputError as error:
        raise Damaged(str(error)) from None
    if verified.sha256 != _sum(record):
        raise Damaged(f"{path}: this checkpoint is damaged (its record does not match its digest)")
    if verified.step != step:
        raise Damaged(f"{path}: this checkpoint is that of step {verified.step}")
    if runs and verified.run not in runs:
        raise Damaged(f"{path}: this checkpoint is that of another run")
    found, recorded = digests(state), verified.digests
    different = sorted(name for name in found.keys() | recorded if found.get(name) != recorded.get(name))
    if different:
        raise Damaged(
            f"{path}: this checkpoint is damaged ({len(different)} of {len(found)} arrays do not match their digests, "
            f"as {different[0]})"
        )
    return verified


def _attempt(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Make a call of Orbax; return its result, or None and its error, which may be of any kind.

    The error loses its traceback, whose frames would keep Orbax's pending coroutines.
    """
    try:
        return call(), None
    except Exception as error:
        if distributed.is_lost_peer(error):
            raise
        return None, error.with_traceback(None)


@functools.cache
def _silence_leftovers() -> None:
    """Ignore, from now on, what Orbax's coroutines say after an error that is raised anyway.

    It closes its event loop under pending reads and writes, which complain on stderr, with tracebacks, when they are
    collected; and asyncio logs the errors of those that nobody waits for.
    """

    def is_foreign(record: logging.LogRecord) -> bool:
        text = logging.Formatter().format(record)  # with the traceback, if there is one
        return not any(word in text for word in ("orbax", "OCDBT", "zarr"))

    logging.getLogger("asyncio").addFilter(is_foreign)
    hook = sys.unraisablehook

    def narrow(unraisable: Any) -> None:
        coroutine = unraisable.object
        orbax = isinstance(coroutine, types.CoroutineType) and "orbax" in coroutine.cr_code.co_filename
        if not orbax and "loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = narrow


def _sharding() -> jax.sharding.Sharding:
    """Replicated over the first device of every process."""
    if jax.process_count() == 1:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = jax.sharding.Mesh(np.array([firsts[index] for index in sorted(firsts)]), ("processes",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
