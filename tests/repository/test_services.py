"""Who reads upstreams and who writes tools, by what the modules import and call."""

import ast
import copy
import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from importlinter import Contract, configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.protected import ProtectedContract

configuration.configure()

ROOT = Path(__file__).parents[2]
IMPORT_RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACT_TYPES: dict[str, type[Contract]] = {
    "forbidden": ForbiddenContract,
    "protected": ProtectedContract,
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "registry").rglob("*.py")
}
RECONCILERS = {"registry.tools.reconcile", "registry.prompts_and_resources.reconcile"}


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what a module imports: the module, and the name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def as_ini(rule: dict[str, object]) -> dict[str, object]:
    """Return a contract's options as import-linter takes them: booleans are words."""
    return {name: str(value) if value is True else value for name, value in rule.items()}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return what is written in each module of the registry."""
    return {name: ast.parse(path.read_text()) for name, path in FILES.items()}


@functools.cache
def import_graph() -> grimp.ImportGraph:
    roots = IMPORT_RULES["root_packages"]
    return grimp.build_graph(*roots, include_external_packages=True, cache_dir=None)


def broken_contracts(importer: str, imported: str) -> set[str]:
    """Return which import contracts of these two types break when this import is added."""
    graph = copy.deepcopy(import_graph())
    if imported not in graph.modules:
        graph.add_module(imported, is_squashed=True)
    graph.add_import(importer=importer, imported=imported)
    contracts = {
        rule["id"]: CONTRACT_TYPES[rule["type"]](rule["name"], IMPORT_RULES, as_ini(rule))
        for rule in IMPORT_RULES["contracts"]
        if rule["type"] in CONTRACT_TYPES
    }
    return {
        name
        for name, contract in contracts.items()
        if not contract.check(graph, verbose=False).kept
    }


@pytest.mark.requirement("R-004")
@pytest.mark.parametrize(
    ("route", "imported"),
    [
        *((route, "aiohttp") for route in sorted(FILES) if route.endswith(".routes")),
        *(("registry.users.routes", name) for name in ("httpx", "httpx2", "mcp", "requests")),
        *(("registry.users.routes", name) for name in ("socket", "urllib", "pymongo", "redis")),
    ],
)
def test_a_route_that_imports_a_client_or_a_driver_breaks_a_contract(
    route: str, imported: str
) -> None:
    assert "routes-open-no-connections" in broken_contracts(route, imported)


@pytest.mark.requirement("R-004")
@pytest.mark.requirement("R-005")
@pytest.mark.parametrize(
    ("importer", "imported", "broken"),
    [
        ("registry.servers.service", "aiohttp", {"http-clients"}),
        ("registry.http.server.server", "httpx2", {"http-clients"}),
        ("registry.tools.governance.service", "registry.upstream.reading", {"live-access"}),
        ("registry.tools.repository", "mcp", {"http-clients"}),
        ("registry.sync.discovery", "registry.upstream.reading", set()),
        ("registry.gateway.client.connector", "aiohttp", set()),
    ],
)
def test_an_upstream_is_reached_by_discovery_sync_and_gateway_alone(
    importer: str, imported: str, broken: set[str]
) -> None:
    assert broken_contracts(importer, imported) == broken


@pytest.mark.requirement("R-006")
@pytest.mark.requirement("R-008")
def test_one_service_alone_reconciles() -> None:
    found = {
        name
        for name, tree in modules().items()
        for module, imported in imports(tree)
        if module in RECONCILERS and imported == "reconcile"
    }

    assert found == {"registry.servers.reconciliation.registry_sync"}


@pytest.mark.requirement("R-008")
def test_that_service_alone_writes_rows() -> None:
    callers = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "apply"
        and "tools" in ast.unparse(node.func.value)
    }

    assert callers == {"registry.servers.reconciliation.registry_sync"}


@pytest.mark.requirement("R-006")
@pytest.mark.requirement("R-007")
def test_discovery_writes_nothing() -> None:
    graph = import_graph()

    reached = graph.find_upstream_modules("registry.sync.discovery")
    assert "registry.upstream.values" in reached
    assert {"pymongo", "beanie"}.isdisjoint(reached)
    assert [name for name in reached if name.endswith((".repository", ".store", ".service"))] == []
