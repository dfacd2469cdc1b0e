"""docs/data-model.md against the code: every collection, and who touches it."""

import ast
import re
from pathlib import Path

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


def modules_by_collection() -> dict[str, set[str]]:
    """Return the modules that name each collection in `….collection("name")`."""
    found: dict[str, set[str]] = {}
    names = {
        "MCPServer": "mcpservers",
        "RegisteredTool": "mcp_tools",
        "ToolVersion": "tool_versions",
        "ServerFeature": "mcp_features",
        "ServerVersion": "server_versions",
        "AccessPolicy": "access_policies",
        "AuditLog": "audit_logs",
        "AuditSeal": "audit_seals",
        "TokenFamily": "token_families",
        "RevokedToken": "revoked_tokens",
        "EndedSession": "ended_sessions",
        "UsageLog": "usage_records",
        "SyncState": "sync_states",
        "SyncJobDocument": "sync_jobs",
        "SyncJobRun": "sync_job_runs",
        "SyncDelivery": "sync_deliveries",
    }
    for path in (ROOT / "registry").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr != "collection" or not node.args:
                continue
            argument = ast.unparse(node.args[0])
            name = names.get(argument.split(".")[0], argument.strip("'\""))
            if name != argument:
                found.setdefault(name, set()).add(module)
    return found


def test_every_collection_is_in_the_table() -> None:
    known = {vars(document)["Settings"].name for document in (*DOCUMENTS, *OWN_DOCUMENTS)}

    assert known | WITHOUT_MODEL == TABLE.keys()


def test_the_table_names_exactly_the_modules_that_touch_a_collection() -> None:
    named = {
        name: set(re.findall(r"registry\.[a-z_.]+", " ".join(cells)))
        for name, cells in TABLE.items()
    }

    assert named == modules_by_collection()


def test_each_collection_has_one_writing_module_besides_the_change_of_keys() -> None:
    writers = {
        name: set(re.findall(r"registry\.[a-z_.]+", cells[0])) - {"registry.ciphertexts"}
        for name, cells in TABLE.items()
    }

    assert {name: found for name, found in writers.items() if len(found) > 1} == {}
