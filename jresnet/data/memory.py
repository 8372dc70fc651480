"""How much memory a program may still take, and refusals before it is allocated."""

import os
import pathlib
import resource
import sys
from collections.abc import Iterator

from jresnet.errors import InputError

_PROC, _CGROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")
_REMEDY = "give fewer images, or as files in folder:DIR, which need not fit into memory"
# Controller in /proc/self/cgroup -> directory of its hierarchy, file of the limit, file of the usage.
_VERSIONS = {
    "": ("", "memory.max", "memory.current"),  # version 2
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
}


def available() -> int:
    """Bytes of memory that this process can still take: the least of what the machine and its limits leave.

    These are the machine's available memory, the limits of the process's control groups (version 1 or 2), and its
    resource limits on address space and data (`ulimit -v` and `-d`). What the kernel would drop from its cache of files
    counts as available.
    """
    return max(0, min(_of_machine(), address_space(), _of_limit(resource.RLIMIT_DATA, 5), *_of_groups()))


def address_space() -> int:
    """Bytes of addresses that this process can still take, for mapped files too; sys.maxsize if there is no limit."""
    return max(0, _of_limit(resource.RLIMIT_AS, 0))


def check(what: str, size: int, remedy: str = _REMEDY) -> None:
    """Raise InputError if `size` bytes of memory, which `what` need, are more than are available."""
    if size > (left := available()):
        raise InputError(f"{what} need {in_words(size)} of memory, and {in_words(left)} are available: {remedy}")


def in_words(size: int) -> str:
    """A number of bytes for messages: 15052800000 is "15.1 GB"."""
    for unit, of in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {of}"
    return f"{size:,} bytes"


def _of_machine() -> int:
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux, or older than 3.14
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_limit(limit: int, column: int) -> int:
    """What a resource limit leaves, whose use is this column of /proc/self/statm, in pages."""
    soft = resource.getrlimit(limit)[0]
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        pages = int((_PROC / "self/statm").read_text().split()[column])
    except OSError:  # not Linux
        pages = 0
    return soft - pages * os.sysconf("SC_PAGE_SIZE")


def _of_groups() -> Iterator[int]:
    """What the limits of the process's control groups and of those around them leave."""
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        controllers, path = line.split(":", 2)[1:]
        for controller in _VERSIONS.keys() & controllers.split(","):
            hierarchy, limit, usage = _VERSIONS[controller]
            # In a container the path may be the one outside of it: then only the root exists.
            group = pathlib.PurePath(path.lstrip("/"))
            for directory in (group, *group.parents):
                yield from _of_group(_CGROUPS / hierarchy / directory, limit, usage)


def _of_group(directory: pathlib.Path, limit: str, usage: str) -> Iterator[int]:
    try:
        left = int((directory / limit).read_text()) - int((directory / usage).read_text())
        statistics = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return
    prefix = "total_" if "total_active_file" in statistics else ""  # version 1: with the groups below
    yield left + sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
