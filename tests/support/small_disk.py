"""A program that trains a tiny run on disks of the given sizes in KiB, then goes on with room: one JSON line for each.

It mounts the disks in a mount namespace of its own: `unshare --user --map-root-user --mount python -m ...`.
"""

import contextlib
import gc
import io
import json
import os
import pathlib
import subprocess
import sys
import threading
import warnings

from experiments import final
from experiments.study import single
from tests.support.runs import final_state, strip
from tests.support.studies import TINY, tiny_npz


def mount(place: pathlib.Path, kibibytes: int, *options: str) -> None:
    """A file system in memory with so much room, and enough for all small files."""
    place.mkdir(exist_ok=True)
    size = ",".join([*options, f"size={kibibytes}k"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], check=True)


def train(workdir: pathlib.Path, *words: str) -> tuple[int, str]:
    """Train the tiny run; returns the exit status and what reached stderr, from other threads too."""
    errors = io.StringIO()
    words = ("--dataset", f"npz:{workdir.parent.parent / 'tiny.npz'}", *TINY[2:], *words, "--workdir", str(workdir))
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        status = single.main("final", final.CONFIG, words)
    return status, errors.getvalue()


def main(folder: pathlib.Path, sizes: list[int]) -> None:
    """Train without limits, then on each disk."""
    threading.excepthook = lambda arguments: print("Traceback", arguments.exc_value, file=sys.stderr)
    sys.unraisablehook = lambda arguments: print("Traceback", arguments.exc_value, file=sys.stderr)
    tiny_npz(folder / "tiny.npz")
    (folder / "large").mkdir()
    assert train(folder / "large" / "run") == (0, "")
    used = sum(path.stat().st_blocks for path in (folder / "large").rglob("*")) // 2
    print(json.dumps({"used": used}), flush=True)
    step, expected = final_state(folder / "large" / "run")
    for size in sizes:
        disk = folder / str(size)
        mount(disk, size)
        status, errors = train(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        resume = ["--resume"] if (disk / "run" / "config.json").exists() else []
        again, later = train(disk / "run", *resume)
        found = final_state(disk / "run")
        same = found[0] == step and all(
            (ours == theirs).all() for ours, theirs in zip(*map(leaves, (found[1], expected)), strict=True)
        )
        gc.collect()
        left = [path.name for path in (disk / "run").rglob("*") if path.name.endswith(".tmp")]
        print(
            json.dumps({
                "size": size, "status": status, "errors": errors, "again": again, "later": later,
                "same": bool(same) and strip(disk / "run") == strip(folder / "large" / "run"), "left": left,
            }),
            flush=True,
        )  # fmt: skip


def leaves(tree):
    """The arrays of a state."""
    import jax

    return jax.tree.leaves(tree)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main(pathlib.Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
