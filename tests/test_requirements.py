"""The list of requirements is complete and tells the truth about the tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import LATER, PROVEN, SHARE

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def functions_of(file: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the id and definition of every function of a module, tests among them."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{file.relative_to(ROOT).as_posix()}::{node.name}", node


def marked(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the ids that `@pytest.mark.requirement` names."""
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(attr="requirement"), args=[ast.Constant(value=name)]):
                yield str(name)
            case _:
                pass


TESTS = dict(found for file in FILES for found in functions_of(file))


def test_every_requirement_is_proven_or_explained_and_not_both() -> None:
    assert set(SHARE) <= PROVEN.keys() | LATER.keys()
    assert PROVEN.keys().isdisjoint(LATER)


@pytest.mark.parametrize("requirement", PROVEN)
def test_the_tests_that_prove_a_requirement_exist(requirement: str) -> None:
    tests = PROVEN[requirement]

    assert tests
    assert [test for test in tests if test not in TESTS] == []
    assert len(set(tests)) == len(tests)


def test_every_marker_names_a_requirement() -> None:
    names = {name for node in TESTS.values() for name in marked(node)}

    assert names - PROVEN.keys() - LATER.keys() == set()


def test_what_is_not_there_yet_says_why() -> None:
    assert all(reason.endswith(".") for reason in LATER.values())
