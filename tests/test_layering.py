"""Data flows one way: a module imports only from those before it, and importing the library has no side effect."""

import ast
import pathlib
import pkgutil
import subprocess
import sys
from typing import get_args

import pytest

import jresnet
from jresnet.config import Model

PACKAGE = pathlib.Path(jresnet.__file__).parent
# In the order of the data: sub-packages, and the modules beside them.
ROOMS = [
    "errors", "rules", "config", "records", "parallel", "data", "models", "torch_weights", "train", "use", "cli",
    "__main__",
]  # fmt: skip


def imported(path):
    """Every module a file imports, as a dotted name, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_order_names_every_room():
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == {*ROOMS, "__init__"}


def test_a_module_imports_only_from_its_own_room_and_those_before_it():
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue
        allowed = ROOMS[: ROOMS.index(room_of(path)) + 1]
        for name in imported(path):
            first, *rest = name.split(".")
            assert first not in ("experiments", "benchmarks", "tests"), f"{path} imports {name}"
            if first == "jresnet":
                assert rest[0] in allowed, f"{path} imports {name}"


def test_config_needs_the_standard_library_alone():
    for path in (PACKAGE / name for name in ("config.py", "rules.py", "errors.py")):
        for name in imported(path):
            assert name.split(".")[0] in {*sys.stdlib_module_names, "jresnet"}, name


PROGRAM = """
import sys, jresnet
assert not {"jax", "flax", "orbax", "numpy"} & sys.modules.keys()
assert set(jresnet.__all__) <= set(dir(jresnet)) and all(getattr(jresnet, name) for name in jresnet.__all__)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
heavy = {"tensorflow", "tensorflow_datasets", "torch", "safetensors", "matplotlib", "tyro", "tensorboardX"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def run(program, folder):
    """Run a program in a fresh interpreter and an empty folder, where it must print and write nothing."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={"PYTHONPATH": str(PACKAGE.parent), "HOME": str(folder)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(folder.iterdir())


def test_importing_has_no_side_effect(tmp_path):
    run(PROGRAM, tmp_path)


@pytest.mark.parametrize(
    "statement",
    [
        "import jresnet; jresnet.torch_weights.from_state_dict",
        "import jresnet.torch_weights; jresnet.torch_weights.from_state_dict",
        "from jresnet import torch_weights; torch_weights.from_state_dict",
        "from jresnet.torch_weights import from_state_dict",
        "from jresnet import *; torch_weights.from_state_dict, resnet18, fit",
    ],
)
def test_public_names_are_there_however_they_are_imported(statement, tmp_path):
    run(statement, tmp_path)


def test_type_checkers_see_the_names_that_are_there():
    """What the package imports under TYPE_CHECKING is what `__getattr__` gives."""
    names = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jresnet"):
            names |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    assert names.pop("*") == "jresnet.models.variants.*"
    names |= {name: f"jresnet.models.variants.{name}" for name in get_args(Model)}
    del names["Model"]
    assert sorted(names) == sorted(jresnet.__all__)
    for name, path in names.items():
        assert getattr(jresnet, name) is pkgutil.resolve_name(path)
    with pytest.raises(AttributeError, match="module 'jresnet' has no attribute 'no_such_name'"):
        jresnet.no_such_name  # noqa: B018


def test_every_public_name_is_there():
    assert len(set(jresnet.__all__)) == len(jresnet.__all__)
    assert all(hasattr(jresnet, name) for name in jresnet.__all__)
