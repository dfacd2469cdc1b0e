"""A servers service on a real database, and dumps of the two-table layout."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.servers.conftest import changes as changes  # noqa: PLC0414 - a fixture
from tests.servers.conftest import discovery as discovery  # noqa: PLC0414 - a fixture
from tests.servers.conftest import servers as servers  # noqa: PLC0414 - a fixture

Rows = Sequence[Mapping[str, Any]]

SERVER_COLUMNS = (
    "id TEXT PRIMARY KEY, name TEXT, url TEXT, package TEXT, remote INTEGER, transport TEXT, "
    "status TEXT, description TEXT, from_registry INTEGER, server_embedding BLOB, "
    "\"group\" TEXT DEFAULT 'default', last_updated TEXT, created_at TEXT"
)
TOOL_COLUMNS = (
    "id TEXT PRIMARY KEY, mcpserver_id TEXT, details TEXT, details_embedding BLOB, "
    "last_updated TEXT, created_at TEXT"
)

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
ROWS: list[dict[str, Any]] = [
    {
        "id": "s1",
        "name": "github",
        "url": "http://127.0.0.1:19001/mcp",
        "package": "ghcr.io/github/github-mcp-server",
        "remote": 0,
        "transport": "streamable-http",
        "status": "running",
        "description": "Issues and pull requests",
        "from_registry": 1,
        "server_embedding": b"\x00\x01",
        "group": "code",
    },
    {
        "id": "s2",
        "name": "Our Docs",
        "url": "http://127.0.0.1:19002/sse",
        "package": "https://docs.example.org/sse",
        "remote": 1,
        "transport": "sse",
        "status": "STOPPED",
        "description": None,
        "from_registry": 0,
        "server_embedding": None,
        "group": "default",
    },
    {
        "id": "s3",
        "name": "io.example/time",
        "url": "",
        "package": "mcp/time",
        "remote": 0,
        "transport": "streamable-http",
        "status": "registry",
        "description": "Tells the time",
        "from_registry": 1,
        "server_embedding": b"\x00",
        "group": "default",
    },
]
TOOL_ROWS: list[dict[str, Any]] = [
    {
        "id": "t1",
        "mcpserver_id": "s1",
        "details": json.dumps(
            {
                "name": "create_issue",
                "title": None,
                "description": "Open an issue. Zażółć ﷽",
                "inputSchema": SCHEMA,
                "outputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": False},
            }
        ),
        "details_embedding": b"\x00",
    },
    {
        "id": "t2",
        "mcpserver_id": "s2",
        "details": json.dumps({"name": "search", "inputSchema": SCHEMA}),
        "details_embedding": None,
    },
    {
        "id": "t3",
        "mcpserver_id": "s3",
        "details": json.dumps({"name": "now", "inputSchema": {"type": "object"}}),
        "details_embedding": None,
    },
]


def write_sqlite(path: Path, servers: Rows, tools: Rows) -> Path:
    """Write a dump as the older program's database."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE mcpserver ({SERVER_COLUMNS})")
        database.execute(f"CREATE TABLE tool ({TOOL_COLUMNS})")
        for table, rows in (("mcpserver", servers), ("tool", tools)):
            for row in rows:
                columns = ", ".join(f'"{name}"' for name in row)
                marks = ", ".join("?" * len(row))
                database.execute(
                    f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - constants
                    tuple(row.values()),
                )
    return path


def write_lines(path: Path, servers: Rows, tools: Rows) -> Path:
    """Write a dump as JSON lines, without what JSON cannot hold."""
    path.mkdir()
    for table, rows in (("mcpserver", servers), ("tool", tools)):
        texts = [
            json.dumps({k: v for k, v in row.items() if not k.endswith("embedding")})
            for row in rows
        ]
        (path / f"{table}.jsonl").write_text("\n".join(texts))
    return path
