"""The tables of docs/dependencies.md, from pyproject.toml and the metadata of what is installed.

python -m tests.support.dependencies    # rewrites them; in an environment with the extras test, torch and onnx
"""

import importlib.metadata
import pathlib
import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dependencies.md"
# Extras whose packages are listed; the others bring jax's plugins and NVIDIA's libraries.
EXTRAS = ("test", "torch", "onnx")

WHY = {
    "jax": "arrays, gradients, compilation",
    "flax": "layers and modules (Linen)",
    "optax": "optimizers and schedules",
    "orbax-checkpoint": "checkpoints",
    "chex": "checks of shapes and dtypes",
    "numpy": "images and labels on the host, .npz files",
    "scipy": "statistical intervals and tests",
    "pillow": "image files of folders, images on the page",
    "matplotlib": "figures",
    "jinja2": "pages of studies and evaluations",
    "rich": "tables and progress on the console",
    "tyro": "command lines from dataclasses",
    "tensorboardx": "TensorBoard events of a run",
    "tensorflow-datasets": "CIFAR-10 and other data sets by name",
    "importlib-resources": "used by tensorflow-datasets, which requires it only of old Pythons",
    "tensorflow-cpu": "reads what tensorflow-datasets prepared; input with tf.data",
    "tensorflow": "the same, where there is no tensorflow-cpu",
    "torch": "the rival in benchmarks, parity tests, .pth files",
    "safetensors": ".safetensors files",
    "onnx": ".onnx files",
    "onnxruntime": "runs them, in the tests too",
    "pytest": "tests",
    "pytest-xdist": "tests in two processes",
    "pyyaml": "tests of the Kubernetes jobs",
    "hypothesis": "tests of properties",
    "mypy": "types",
    "ruff": "style and lint",
    "scikit-learn": "the reference of the figures of an evaluation",
    "setuptools": "tests of the wheel",
}


def declared() -> dict[str, list[Requirement]]:
    """The requirements in pyproject.toml: "" without extra, then by listed extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"]} | {name: project["optional-dependencies"][name] for name in EXTRAS}
    return {extra: list(map(Requirement, lines)) for extra, lines in groups.items()}


def licence(name: str) -> str:
    """What an installed package's metadata says of its licence: the expression, the field, the classifiers.

    Raises:
      PackageNotFoundError: it is not installed.
    """
    fields = importlib.metadata.metadata(name)
    field = (fields.get("License") or "").strip()
    classifiers = [c.split(" :: ")[-1] for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    first, *more = field.splitlines() or [""]
    field = "" if more and classifiers else first  # a field of several lines is the text of a licence
    return fields.get("License-Expression") or field or ", ".join(classifiers) or "not stated"


def brought(requirements: list[Requirement]) -> dict[str, set[str]]:
    """The packages that these bring with them, by canonical name: which packages require them."""
    found: dict[str, set[str]] = {}
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        for required in map(Requirement, lines):
            markers = required.marker
            if markers is None or any(markers.evaluate({"extra": extra}) for extra in (*extras, "")):
                found.setdefault(canonicalize_name(required.name), set()).add(name)
                waiting.append(required)
    return found


def table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown, as lines."""
    return ["| " + " | ".join(row) + " |" for row in (headers, (":--",) * len(headers), *rows)]


def lines() -> list[str]:
    """Both tables."""
    direct = [(requirement, extra) for extra, group in declared().items() for requirement in group]
    names = {canonicalize_name(requirement.name) for requirement, _ in direct}
    rows = []
    for requirement, extra in direct:
        name = canonicalize_name(requirement.name)
        try:
            terms = licence(name)
        except importlib.metadata.PackageNotFoundError:
            terms = licence("tensorflow-cpu")  # the same project
        rows.append((requirement.name, str(requirement.specifier), terms, extra, WHY[name]))
    others = brought([requirement for requirement, _ in direct])
    return [
        *table(("package", "versions", "licence", "extra", "for"), rows),
        "",
        *table(
            ("package", "licence", "required by"),
            [
                (importlib.metadata.metadata(name)["Name"], licence(name), ", ".join(sorted(others[name])))
                for name in sorted(set(others) - names)
                if any(importlib.metadata.distributions(name=name))
            ],
        ),
    ]


def split(text: str) -> tuple[str, str]:
    """The page's text before the tables, and the tables."""
    start = re.search(r"^\| package \| versions", text, re.MULTILINE)
    return (text[: start.start()], text[start.start() :]) if start else (text, "")


if __name__ == "__main__":
    PAGE.write_text(split(PAGE.read_text())[0] + "\n".join(lines()) + "\n")
