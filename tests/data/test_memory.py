"""What memory there is: the least of what the machine, its control groups and the process's own limits leave."""

import resource

import pytest

from jresnet.data import memory
from jresnet.errors import InputError

GB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine with 16 GB available out of files below /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GB // 4096}.get)

    def make(files):
        meminfo = f"MemTotal: {32 * GB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {16 * GB // 1024} kB\n"
        # 3 GB of addresses, 1 GB of them data.
        statm = f"{3 * GB // 4096} 9 9 9 0 {GB // 4096} 0\n"
        for name, content in ({"proc/meminfo": meminfo, "proc/self/statm": statm} | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(content))

    return make


def group(directory, limit, usage, statistics="active_file 0\ninactive_file 0\n", version=2):
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    return {
        f"cgroup/{directory}/{n}": v for n, v in zip((*names, "memory.stat"), (limit, usage, statistics), strict=True)
    }


def test_without_limits_it_is_what_the_machine_has_available(machine):
    machine({})
    assert memory.available() == 16 * GB and memory.address_space() > 2**60


def test_without_proc_it_is_the_memory_of_the_machine(tmp_path, machine):
    assert memory.available() == 64 * GB


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (group("a/b", 10 * GB, 4 * GB) | group("a", "max", 9 * GB), 6 * GB),
        (group("a/b", "max", 1) | group("a", 8 * GB, 3 * GB), 5 * GB),
        (group("a/b", 10 * GB, 10 * GB, f"anon 7\nactive_file {GB}\ninactive_file {2 * GB}\n"), 3 * GB),
        (group(".", 4 * GB, GB), 3 * GB),
        (group("a/b", GB, 2 * GB), 0),
        ({}, 16 * GB),
    ],
    ids=["own", "parent", "cached files count as free", "container", "exceeded", "none"],
)
def test_control_groups_of_version_2(machine, files, left):
    machine({"proc/self/cgroup": "0::/a/b\n"} | files)
    assert memory.available() == left


def test_control_groups_of_version_1(machine):
    statistics = f"active_file 0\ninactive_file 0\ntotal_active_file {GB}\ntotal_inactive_file 0\n"
    machine(
        {"proc/self/cgroup": "9:cpu,cpuacct:/\n4:memory:/a\n0::/\n"} | group("memory/a", 6 * GB, 3 * GB, statistics, 1)
    )
    assert memory.available() == 4 * GB
    machine(group("memory/a", 2**63 - 4096, 3 * GB, version=1))
    assert memory.available() == 16 * GB


def test_resource_limits(machine, monkeypatch):
    machine({})
    limits = {resource.RLIMIT_AS: 5 * GB, resource.RLIMIT_DATA: 9 * GB}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (limits[limit], limits[limit]))
    assert memory.available() == memory.address_space() == 2 * GB
    limits[resource.RLIMIT_DATA] = 2 * GB
    assert memory.available() == GB and memory.address_space() == 2 * GB
    limits[resource.RLIMIT_AS] = GB
    assert memory.available() == 0


def test_a_refusal_says_what_is_needed_and_what_is_there(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2 * 10**9)
    memory.check("images", 2 * 10**9)
    with pytest.raises(InputError, match=r"^9 images need 2\.0 GB of memory, and 2\.0 GB are available: take fewer$"):
        memory.check("9 images", 2 * 10**9 + 1, "take fewer")
    assert [memory.in_words(n) for n in (15_052_800_000, 12_345_678, 999)] == ["15.1 GB", "12.3 MB", "999 bytes"]
