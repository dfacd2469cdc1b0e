"""What the product imports is declared in pyproject.toml, and what is declared is imported."""

import ast
import functools
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repository.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"registry", "packages", "scripts"}
PROVIDED_BY = packages_distributions()

OPTIONAL = {
    "registry/telemetry.py": "otel",
    "registry/gateway/edge/spans.py": "otel",
    "registry/search/": "search",
    "packages/models/generator/": "schemas",
    "scripts/": "dev",
    "scripts/build_models.py": "build",
}
"""Modules that may import an extra besides."""

NEVER_IMPORTED = {
    "secantusdb": "local mode starts it as a program",
    "editables": "hatchling needs it to install a checkout",
}
"""What is declared all the same, and why. The extra `dev` is not asked: it holds tools."""


def named(requirements: list[str]) -> set[str]:
    """Return the names of distributions, without our own extras."""
    found = {str(canonicalize_name(Requirement(text).name)) for text in requirements}
    return found - {PROJECT["name"]}


def imported(file: Path) -> Iterator[str]:
    """Yield the top-level modules of others that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in OWN and top not in sys.stdlib_module_names:
                yield top


def providers(module: str) -> set[str]:
    """Return the distributions that a module may come from: of a namespace there are several."""
    return {str(canonicalize_name(name)) for name in PROVIDED_BY.get(module, ())}


@functools.cache
def imported_by_file() -> dict[str, set[str]]:
    """Return what each module imports of others."""
    return {
        file.relative_to(ROOT).as_posix(): set(imported(file))
        for folder in sorted(OWN)
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "_generated" not in file.parts
    }


def declared_for(file: str) -> set[str]:
    """Return what a module may import."""
    extras = [extra for place, extra in OPTIONAL.items() if file.startswith(place)]
    return named([*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])])


def test_every_import_is_of_a_declared_dependency() -> None:
    undeclared = {
        f"{file}: {module}"
        for file, modules in imported_by_file().items()
        for module in modules
        if providers(module).isdisjoint(declared_for(file))
    }

    assert undeclared == set()


@pytest.mark.parametrize("group", ["dependencies", "otel", "schemas", "build"])
def test_every_declared_dependency_is_imported(group: str) -> None:
    declared = named(PROJECT["dependencies"] if group == "dependencies" else EXTRAS[group])
    used = {
        name
        for modules in imported_by_file().values()
        for module in modules
        for name in providers(module)
    }

    assert declared - used - NEVER_IMPORTED.keys() == set()


def test_every_reason_is_about_a_declared_dependency() -> None:
    everything = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]

    assert NEVER_IMPORTED.keys() <= named(everything)
