"""What took long to make, kept in the user's cache directory: plain arrays, checked by size and digest before use."""

import hashlib
import json
import pathlib
import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from jresnet.records.files import cache_directory

_READ = 1 << 24  # bytes at a time


def digest(files: Sequence[pathlib.Path]) -> str:
    """SHA-256 over names, sizes and contents of files."""
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(_READ):
                found.update(piece)
    return found.hexdigest()


def load(name: str) -> dict[str, np.ndarray] | None:
    """Arrays kept under `name`; None where there are none, or not as they were written."""
    path, record = _places(name)
    try:
        kept = json.loads(record.read_text())
        if path.stat().st_size != kept["size"] or digest([path]) != kept["sha256"]:
            return None
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under `name`; where the cache cannot be written, nothing is kept."""
    path, record = _places(name)
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]  # numpy's stubs know no names of arrays
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        # Last, and checked against the arrays: of two writers at once either may win.
        record.write_text(json.dumps({"size": path.stat().st_size, "sha256": digest([path])}))
    except OSError:
        return


def _places(name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The arrays' file, and that of its size and digest."""
    directory = cache_directory() / "datasets"
    return directory / f"{name}.npz", directory / f"{name}.json"
