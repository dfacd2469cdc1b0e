"""Who reads upstreams and who writes tools, by what the modules import and call."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
    for path in (ROOT / "registry").rglob("*.py")
}
RECONCILERS = {"registry.tools.reconcile", "registry.prompts_and_resources.reconcile"}


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what a module imports: the module, and the name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.requirement("R-006")
@pytest.mark.requirement("R-008")
def test_one_service_alone_reconciles() -> None:
    found = {
        name
        for name, tree in MODULES.items()
        for module, imported in imports(tree)
        if module in RECONCILERS and imported == "reconcile"
    }

    assert found == {"registry.servers.storage.registry_sync"}


@pytest.mark.requirement("R-008")
def test_that_service_alone_writes_rows() -> None:
    callers = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "apply"
        and "tools" in ast.unparse(node.func.value)
    }

    assert callers == {"registry.servers.storage.registry_sync"}


@pytest.mark.requirement("R-006")
@pytest.mark.requirement("R-007")
def test_discovery_writes_nothing() -> None:
    touched = {module for module, _ in imports(MODULES["registry.sync.discovery"])}

    assert [name for name in touched if "repository" in name or "database" in name] == []
    assert [name for name in touched if name.endswith((".store", ".service"))] == []
