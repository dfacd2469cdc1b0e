"""docs/requirements.md tells the truth: tests prove each statement, or it says what is missing."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.requirements import lines, requirements

ROOT = Path(__file__).parents[1]
LEDGER = requirements()
IDS = [statement.id for statement in LEDGER]
LATER = {statement.id for statement in LEDGER if statement.later}


def markers() -> Iterator[tuple[str, ast.Call]]:
    """Yield every `@pytest.mark.requirement(…)` with the name of what it decorates."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for call in node.decorator_list:
                    match call:
                        case ast.Call(func=ast.Attribute(attr="requirement")):
                            yield node.name, call
                        case _:
                            pass


def test_every_line_is_one_statement_with_an_id_of_its_own() -> None:
    assert len(LEDGER) == len(lines()) == len(set(IDS))


def test_every_statement_is_proved_by_a_test_or_says_what_is_missing() -> None:
    proved = {str(value) for _, call in markers() for value in constants(call)}

    assert [name for name in IDS if name not in proved | LATER] == []
    assert proved - set(IDS) == set()


def test_every_marker_is_on_a_test_and_names_one_statement() -> None:
    odd = [
        f"{name}: {ast.unparse(call)}"
        for name, call in markers()
        if not name.startswith("test_") or len(constants(call)) != 1
    ]

    assert odd == []


def constants(call: ast.Call) -> list[object]:
    return [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
