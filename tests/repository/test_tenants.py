"""No decision about a server leaves out which tenant it is of."""

import ast
from pathlib import Path

from tests.repository.files import ROOT


def facts_without_a_tenant(path: Path) -> list[str]:
    """Return where a module makes facts for a decision, and does not say of which tenant."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "ServerFacts"
        and "tenant_id" not in {keyword.arg for keyword in call.keywords}
    ]


def test_every_decision_about_a_server_knows_its_tenant() -> None:
    modules = (ROOT / "registry").rglob("*.py")

    assert [place for module in modules for place in facts_without_a_tenant(module)] == []
