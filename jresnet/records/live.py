"""Runs as they are while they train: what their records say by now, read again only where it has changed."""

import bisect
import functools
import heapq
import itertools
import os
import pathlib
import secrets
import stat
import threading
import time

from jresnet.errors import InputError, visible
from jresnet.records.epoch import METRICS, read_line
from jresnet.records.files import Record, parse_json
from jresnet.records.lock import LOCK, is_held
from jresnet.records.result import Result
from jresnet.records.run import Run
from jresnet.records.run_directory import BEST, CHECKPOINTS, CONFIG, EARLIER, RESULT
from jresnet.rules import as_typed

COLUMNS = (
    "train_loss", "validation_loss", "test_loss", "train_accuracy", "validation_accuracy", "test_accuracy", "seconds",
    "images_per_second",
)  # fmt: skip
"""What is kept of an epoch's record."""
MOST_RUNS, MOST_EPOCHS, MOST_FOLDERS = 200, 20_000, 10_000
"""Limits: runs that are read, those that changed last; epochs of a run, the first; folders that are searched."""
PAUSE = 1.0
"""Seconds from one search to the next at least, however many pages ask."""

_CHUNK = 2**20  # bytes of a metrics.jsonl that a search reads: about 4,000 epochs
_LARGEST = 2**24  # bytes of another record
_READING = 1.0  # seconds of a search after which the epochs of further runs wait for the next one

_Key = tuple[int, int, int, int]


def _key(path: pathlib.Path) -> _Key | None:
    """What changes when a file does: inode, size and times; None for links, and whatever else is no file."""
    try:
        found = path.lstat()
    except OSError:
        return None
    key = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return key if stat.S_ISREG(found.st_mode) else None


def _read(path: pathlib.Path, most: int, start: int = 0) -> bytes:
    """At most so many bytes of a file; InputError if it cannot be read, or has become a link since its `_key`."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    try:
        with open(path, "rb", opener=opener) as file:
            file.seek(start)
            return file.read(most)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}): check its permissions") from None


def _content(path: pathlib.Path) -> object:
    """What a `config.json` or `result.json` contains; InputError if that is not JSON."""
    data = _read(path, _LARGEST)
    try:
        return parse_json(data)
    except ValueError as error:
        raise InputError(f"{path.name}: not a readable record of a run ({error}): restore it") from None


@functools.lru_cache(maxsize=MOST_RUNS)
def _run(path: pathlib.Path, key: _Key) -> Run:
    """The content of a `config.json`, parsed once for each `key`; InputError if it is damaged."""
    return Run.from_json(_content(path), path.name)


@functools.lru_cache(maxsize=MOST_RUNS)
def _result(path: pathlib.Path, key: _Key) -> Result:
    """The content of a `result.json`, likewise."""
    return Result.from_json(_content(path), path.name)


class _Metrics:
    """The epochs in a `metrics.jsonl`, which may grow, be cut or replaced, vanish and come back."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._key: _Key | None = None
        self._forget()

    def _forget(self) -> None:
        self.epochs: list[tuple[float | None, ...]] = []  # their COLUMNS
        self.searches: list[int] = []  # the number of the search that has read each of them
        self.problem, self.complete = "", True
        self._offset, self._last = 0, b""  # bytes read, and the last line of them

    def read(self, search: int) -> None:
        """Read what has been appended, or all if something else has happened to the file."""
        before, self._key = self._key, _key(self._path)
        if self._key == before and self.complete:
            return
        self.problem, self.complete = "", True
        try:
            data = b""
            if self._key and before and self._key[0] == before[0] and self._key[1] >= self._offset:
                data = _read(self._path, _CHUNK, self._offset - len(self._last))
            if not (self._last and data.startswith(self._last)):  # another file, another content, or nothing read yet
                self._forget()
                data = _read(self._path, _CHUNK) if self._key else b""
            self._append(data.removeprefix(self._last), search)
            self.complete = len(data) < _CHUNK
        except InputError as error:
            self.problem = str(error)

    def _append(self, data: bytes, search: int) -> None:
        *lines, partial = data.split(b"\n")
        if len(partial) > _CHUNK // 2:
            raise InputError(f"{METRICS}, line {len(self.epochs) + len(lines) + 1}: is too long: restore the file")
        for line in lines[: MOST_EPOCHS - len(self.epochs)]:
            record = read_line(line, len(self.epochs), METRICS)
            self.epochs.append(tuple(record.get(name) for name in COLUMNS))
            self.searches.append(search)
            self._last = line + b"\n"
            self._offset += len(self._last)


class _Watched:
    """A run's directory, as it was at the latest search."""

    def __init__(self, directory: pathlib.Path):
        self._directory, self._metrics = directory, _Metrics(directory / METRICS)
        self._run: Run | None = None
        self._result: Result | None = None
        self._state = self._problem = ""

    def read(self, search: int, epochs: bool) -> None:
        """Read what has changed; the epochs only if there is time for them."""
        # In this order: a run writes its epochs before its result, and gives up its lock after that.
        held = _key(self._directory / LOCK) is not None and is_held(self._directory)
        config, result = self._directory / CONFIG, self._directory / RESULT
        self._run = self._result = None
        problem = ""
        try:
            self._run = _run(config, key) if (key := _key(config)) else None
            self._result = _result(result, key) if (key := _key(result)) else None
        except InputError as error:
            problem = str(error)
        if epochs:
            self._metrics.read(search)
        self._problem = problem or self._metrics.problem or ("" if held or not epochs else self._contradiction())
        self._state = "damaged" if self._problem else "running" if held else self._at_rest()

    def _contradiction(self) -> str:
        """How the result of a run that has ended contradicts its epochs, if it does."""
        done = len(self._metrics.epochs)
        if not self._result or not self._metrics.complete or done == min(self._result.epochs, MOST_EPOCHS):
            return ""
        return f"{RESULT}: is of {self._result.epochs} epochs, and {METRICS} has {done}: restore it"

    def _at_rest(self) -> str:
        if self._result:
            return "finished"
        # Converted weights record no more of their data than the name.
        return "stopped" if self._run and "train" in self._run.dataset else "converted"

    def settings(self) -> dict[str, str]:
        """The run's options, as typed."""
        if self._run is None:
            return {}
        options = {"experiment": self._run.experiment, "seed": self._run.seed, **vars(self._run.config)}
        return {name: visible(as_typed(value)) for name, value in options.items()}

    def view(self, seen: int) -> Record:
        """What the page gets: the run's state, and its epochs without those that search `seen` or an earlier read."""
        first = bisect.bisect_right(self._metrics.searches, seen)
        return {
            "state": self._state,
            "problem": visible(self._problem),
            "planned": self._run.config.epochs if self._run else None,
            "first": first,
            "epochs": self._metrics.epochs[first:],
        }


class Watcher:
    """The runs in a directory and below it, by their paths there. No link below it is followed."""

    def __init__(self, directory: pathlib.Path):
        self._directory, self._lock = directory, threading.Lock()
        self._runs: dict[str, _Watched] = {}
        self._id, self._search, self._next = secrets.token_hex(4), 0, 0.0
        self._note = ""

    def view(self, since: str = "") -> Record:
        """What the page shows; with the `token` of an earlier view only the epochs that are new since then."""
        with self._lock:
            if time.monotonic() >= self._next:
                self._read()
                self._next = time.monotonic() + PAUSE
            server, _, search = since.partition("-")
            seen = int(search) if server == self._id else 0
            return {
                "token": f"{self._id}-{self._search}",
                "directory": visible(str(self._directory)),
                "note": self._note,
                "columns": COLUMNS,
                "runs": [{"id": path, "name": self._name(path)} | run.view(seen) for path, run in self._runs.items()],
                "settings": self._differing(),
            }

    def _name(self, path: str) -> str:
        return visible(self._directory.absolute().name if path == "." else path)

    def _differing(self) -> Record:
        """The options in which runs differ, each with the value that each run has: "" where none can be read."""
        runs = [run.settings() for run in self._runs.values()]
        names = next(filter(None, runs), {})
        values = {name: [options.get(name, "") for options in runs] for name in names}
        return {name: column for name, column in values.items() if len({*column} - {""}) > 1}

    def _read(self) -> None:
        """Search the directory for runs, and read what has changed in them."""
        self._search += 1
        found = self._found()
        self._runs = {path: self._runs.get(path) or _Watched(self._directory / path) for path in found}
        deadline = time.monotonic() + _READING
        for run in self._runs.values():
            run.read(self._search, epochs=time.monotonic() < deadline)

    def _found(self) -> list[str]:
        changed: dict[str, int] = {}
        folders = 0
        for path, below, files in itertools.islice(os.walk(self._directory), MOST_FOLDERS):
            folders += 1
            directory = pathlib.Path(path)
            if CONFIG in files and (key := _key(directory / CONFIG)):
                # Arrays, and in the last copies of the run's own records; sorted, as the limit cuts what comes last.
                below[:] = sorted({*below} - {CHECKPOINTS, f"{CHECKPOINTS}-damaged", BEST, EARLIER})
                times = [key[2], (_key(directory / METRICS) or key)[2]]
                changed[str(directory.relative_to(self._directory))] = max(times)
        notes = []
        if folders == MOST_FOLDERS:
            notes.append(f"only {MOST_FOLDERS:,} folders were searched")
        if len(changed) > MOST_RUNS:
            notes.append(f"of {len(changed):,} runs only the {MOST_RUNS} that changed last are shown")
        self._note = "; ".join(notes)
        return sorted(heapq.nlargest(MOST_RUNS, changed, key=lambda path: changed[path]))
