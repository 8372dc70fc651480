"""docs/dependencies.md and constraints.txt agree with pyproject.toml, with each other and with what is installed."""

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import dependencies

ENVIRONMENT = {"platform_system": "Linux", "platform_machine": "x86_64", "sys_platform": "linux", "extra": ""}
PYTHONS = ("3.11", "3.12", "3.13")
PAGE = dependencies.PAGE.read_text()


def rows(headers):
    """The rows of the page's table with these headers, as dicts."""
    (body,) = re.findall(rf"^\| {re.escape(' | '.join(headers))} \|\n\|[^\n]*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [dict(zip(headers, line.strip("| ").split(" | "), strict=True)) for line in body.splitlines()]


DIRECT = rows(("package", "versions", "licence", "extra", "for"))
OTHERS = rows(("package", "licence", "required by"))


def constraints(python):
    """The exact versions for a Python on Linux x86-64, by canonical name."""
    lines = [line for line in (dependencies.ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    environment = ENVIRONMENT | {"python_version": python}
    applicable = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate(environment)]
    versions = {}
    for requirement in applicable:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and requirement.name not in versions
        versions[canonicalize_name(requirement.name)] = specifier.version
    assert len(versions) == len(applicable)
    return versions


def requirements():
    return [(extra, requirement) for extra, group in dependencies.declared().items() for requirement in group]


def test_the_page_lists_exactly_the_declared_dependencies():
    listed = [(row["package"], row["versions"], row["extra"].strip()) for row in DIRECT]
    assert listed == [(r.name, str(r.specifier), extra) for extra, r in requirements()]
    assert all(row["for"] for row in DIRECT)


@pytest.mark.parametrize("row", [*DIRECT, *OTHERS], ids=lambda row: row["package"])
def test_licences_are_those_of_the_metadata(row):
    try:
        installed = importlib.metadata.version(row["package"])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    if installed.partition("+")[0] != constraints("3.11").get(canonicalize_name(row["package"]), installed):
        pytest.skip("another version")
    assert row["licence"] == dependencies.licence(row["package"])
    assert row["licence"]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_declared_ranges_contain_the_exact_versions(python):
    versions = constraints(python)
    environment = ENVIRONMENT | {"python_version": python}
    for _, requirement in requirements():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_page_and_the_exact_versions_name_the_same_packages(python):
    listed = {canonicalize_name(row["package"]) for row in (*DIRECT, *OTHERS)} - {"tensorflow"}
    assert listed - {"wheel"} == set(constraints(python))  # pip freeze leaves wheel out


def test_every_listed_package_is_declared_or_required():
    names = {canonicalize_name(row["package"]) for row in (*DIRECT, *OTHERS)}
    for row in OTHERS:
        assert {canonicalize_name(name) for name in row["required by"].split(", ")} <= names


def test_what_the_dependencies_bring_is_listed():
    """With the packages that are installed, on the Python for which the page was made."""
    direct = [requirement for _, requirement in requirements()]
    installed = {name for name in dependencies.brought(direct) if any(importlib.metadata.distributions(name=name))}
    cuda = {name for name in installed if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert installed - cuda <= {canonicalize_name(row["package"]) for row in (*DIRECT, *OTHERS)}
