"""The environment of a result: commits of repositories made here, package versions, device names."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import types

import jax
import numpy
import pytest

from jresnet.records import environment

SOURCE = pathlib.Path(environment.__file__)


def git(directory, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def imported_from(directory):
    """Copy the module into `directory` and import it from there."""
    path = directory / SOURCE.name
    path.write_bytes(SOURCE.read_bytes())
    spec = importlib.util.spec_from_file_location("environment_copy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("JRESNET_COMMIT", raising=False)
    (tmp_path / "jresnet").mkdir()
    git(tmp_path, "init", "--quiet")
    return tmp_path


def test_versions_of_python_and_the_packages():
    versions = environment.versions()
    assert versions["python"] == sys.version.split()[0]
    assert versions["numpy"] == numpy.__version__
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(versions)


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert set(environment.versions()) == {"python", "numpy"}


class FakeDevice:
    def __init__(self, platform, device_kind):
        self.platform, self.device_kind = platform, device_kind


def test_device_counts_gpus_by_kind(monkeypatch):
    gpus = [FakeDevice("gpu", f"NVIDIA {name}") for name in ("H200", "H200", "L4")]
    monkeypatch.setattr("jax.devices", lambda: gpus)
    assert environment.device() == "NVIDIA H200 x2, NVIDIA L4 x1"


@pytest.mark.parametrize(("count", "ending"), [(1, "cores"), (4, "cores, 4 devices")])
def test_device_names_the_cpu_and_counts_emulated_devices(monkeypatch, count, ending):
    monkeypatch.setattr("jax.devices", lambda: [FakeDevice("cpu", "cpu")] * count)
    assert re.fullmatch(rf"cpu: \S.* x[1-9]\d* {ending}", environment.device())


def test_commit_of_a_clean_and_of_a_modified_tree(repository):
    module = imported_from(repository / "jresnet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "first")
    git(repository, "tag", "-a", "v1", "-m", "a tag must not replace the hash")
    head = git(repository, "rev-parse", "HEAD")
    assert module.commit() == head
    (repository / "untracked.txt").write_text("not part of the source")
    assert module.commit() == head
    (repository / "jresnet" / SOURCE.name).write_text("# changed")
    assert module.commit() == f"{head}-dirty"


def test_commit_ignores_a_repository_that_does_not_track_the_package(repository):
    (repository / "other.txt").write_text("unrelated")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "first")
    assert imported_from(repository / "jresnet").commit() is None


def test_commit_ignores_the_repository_of_a_running_git_hook(repository, tmp_path_factory, monkeypatch):
    module = imported_from(repository / "jresnet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "first")
    head = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("hook") / ".git"))
    assert module.commit() == head


def test_commit_is_none_without_a_commit_a_checkout_or_git(repository, tmp_path_factory, monkeypatch):
    module = imported_from(repository / "jresnet")
    git(repository, "add", ".")
    assert module.commit() is None
    assert imported_from(tmp_path_factory.mktemp("plain")).commit() is None
    git(repository, "commit", "--quiet", "-m", "first")
    assert module.commit() is not None
    monkeypatch.setenv("PATH", str(repository))
    assert module.commit() is None


def test_commit_is_none_if_git_hangs(repository, monkeypatch):
    slow = repository / "git"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    module = imported_from(repository / "jresnet")
    monkeypatch.setenv("PATH", f"{repository}:/usr/bin:/bin")
    module._GIT_TIMEOUT = 0.2
    assert module.commit() is None


def test_jresnet_commit_overrides_the_commit(monkeypatch):
    monkeypatch.setenv("JRESNET_COMMIT", "0123abc")
    assert environment.commit() == "0123abc"


NVRM = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)  Sun Jul 27\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)


def test_on_a_gpu_the_versions_name_its_driver_and_cudnn(monkeypatch, tmp_path):
    (tmp_path / "version").write_text(NVRM)
    monkeypatch.setattr(environment, "_DRIVER", tmp_path / "version")
    library = types.SimpleNamespace(cudnnGetVersion=lambda: 91002)
    monkeypatch.setattr(environment.ctypes, "CDLL", lambda name, mode: library)
    assert environment.gpu_versions() == {}  # JAX computes on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert environment.gpu_versions() == {"nvidia driver": "580.65.06", "cudnn": "9.10.2"}
    (tmp_path / "version").write_text(NVRM.replace("Open Kernel", "Kernel").replace("for x86_64  ", ""))
    assert environment.nvidia_driver() == "580.65.06"


def test_without_driver_and_cudnn_the_versions_leave_them_out(monkeypatch, tmp_path):
    def missing(name, mode=None):
        raise OSError(name)

    monkeypatch.setattr(environment, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(environment.ctypes, "CDLL", missing)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert environment.gpu_versions() == {}
