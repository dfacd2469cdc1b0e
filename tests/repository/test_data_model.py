"""docs/data-model.md against the code: every collection, and who touches it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from packages.database.schema import OWN_DOCUMENTS
from packages.models import DOCUMENTS

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| `(\w+)` \| .+? \| (.+?) \| (.+?) \|$",
    (ROOT / "docs/data-model.md").read_text(),
    re.MULTILINE,
)
TABLE = {name: (writers, readers) for name, writers, readers in ROWS if "registry." in readers}


WITHOUT_MODEL = {"roles"}
"""Of the other application, with no published schema; only names are read from it."""

CHANGE_OF_KEYS = "registry.ciphertexts"
"""Replaces ciphertexts in whichever collection holds them, beside the one writing module."""


COLLECTIONS = {
    **{model.__name__: vars(model)["Settings"].name for model in (*DOCUMENTS, *OWN_DOCUMENTS)},
    "AccessRoleDocument": "accessroles",
}
WRITES = {
    *("insert_one", "insert_many", "update_one", "update_many", "replace_one", "bulk_write"),
    *("delete_one", "delete_many", "drop", "rename"),
    *("find_one_and_update", "find_one_and_replace", "find_one_and_delete"),
    # Of Beanie's documents and queries.
    *("insert", "update", "upsert", "delete", "delete_all", "update_all", "save", "replace"),
}
WRITING_COMMANDS = {"insert", "update", "delete", "findAndModify"}


def module_trees() -> Iterator[tuple[str, ast.Module]]:
    for path in (ROOT / "registry").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield module, ast.parse(path.read_text())


def named(argument: ast.expr) -> str | None:
    """Return the collection that `Document.Settings.name` or a literal name stands for."""
    text = ast.unparse(argument)
    name = COLLECTIONS.get(text.split(".")[0], text.strip("'\""))
    return name if name != text else None


def opened(node: ast.AST) -> str | None:
    """Return the collection of `….collection("name")` or `….document(Class)`."""
    match node:
        case ast.Call(func=ast.Attribute(attr="collection" | "document"), args=[argument, *_]):
            return named(argument)
        case _:
            return None


def modules_by_collection() -> dict[str, set[str]]:
    """Return the modules that name each collection in `….collection` or `….document`."""
    found: dict[str, set[str]] = {}
    for module, tree in module_trees():
        for name in filter(None, map(opened, ast.walk(tree))):
            found.setdefault(name, set()).add(module)
        if "OwnerTables" in {one.name for one in ast.walk(tree) if isinstance(one, ast.alias)}:
            for name in ("mcpservers", "raw_apis"):
                found.setdefault(name, set()).add(module)
    return found


def root_of(expression: ast.expr, variables: dict[str, str]) -> str | None:
    """Return the collection that a chain such as `self._users.find(…).sort(…)` begins with."""
    while (name := opened(expression) or variables.get(ast.unparse(expression))) is None:
        match expression:
            case ast.Call(func=inner) | ast.Attribute(value=inner) | ast.Await(value=inner):
                expression = inner
            case _:
                return None
    return name


def is_of_owners(expression: ast.expr) -> bool:
    """Whether a chain begins with `table`, which is one of the two collections of owners."""
    while isinstance(expression, ast.Call | ast.Attribute | ast.Await):
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    return isinstance(expression, ast.Name) and expression.id == "table"


def written(tree: ast.Module) -> Iterator[str]:
    """Yield the collections on which a module calls a method or command that writes."""
    variables: dict[str, str] = {}
    # Twice: a document that is written may have been made from a class that was assigned before.
    for node in [*ast.walk(tree), *ast.walk(tree)]:
        if isinstance(node, ast.Assign) and (name := root_of(node.value, variables)):
            variables |= {ast.unparse(target): name for target in node.targets}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=held, attr=method)) if method in WRITES:
                if is_of_owners(held):
                    yield from ("mcpservers", "raw_apis")
                if name := root_of(held, variables):
                    yield name
            case ast.Call(
                func=ast.Attribute(attr="command"), args=[ast.Constant(value=command), target, *_]
            ) if command in WRITING_COMMANDS and (name := root_of(target, variables)):
                yield name
            case _:
                pass


@pytest.mark.requirement("R-073")
def test_every_collection_is_in_the_table() -> None:
    known = {vars(document)["Settings"].name for document in (*DOCUMENTS, *OWN_DOCUMENTS)}

    assert known | WITHOUT_MODEL == TABLE.keys()
    assert "api_endpoints" not in TABLE


@pytest.mark.requirement("R-016")
@pytest.mark.requirement("R-020")
def test_the_table_names_exactly_the_modules_that_touch_a_collection() -> None:
    touching = {
        name: set(re.findall(r"registry\.[a-z_.]+", " ".join(cells)))
        for name, cells in TABLE.items()
    }

    assert touching == modules_by_collection()


@pytest.mark.requirement("R-016")
def test_a_collection_is_written_by_the_one_module_that_the_table_names() -> None:
    writers = {
        name: set(re.findall(r"registry\.[a-z_.]+", cells[0])) - {CHANGE_OF_KEYS}
        for name, cells in TABLE.items()
    }
    found: dict[str, set[str]] = {name: set() for name in TABLE}
    for module, tree in module_trees():
        for name in written(tree):
            found[name].add(module)

    assert found == writers
    assert [name for name, modules in writers.items() if len(modules) > 1] == []


@pytest.mark.requirement("R-024")
def test_no_query_needs_a_hosted_edition_of_the_database() -> None:
    hosted = {"$search", "$searchMeta", "$vectorSearch", "$rankFusion"}

    assert [
        f"{module}: {node.value}"
        for module, tree in module_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in hosted
    ] == []
