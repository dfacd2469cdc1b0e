"""What a page of each list takes on the embedded database, in milliseconds, as its client sees it.

Asked is for pages of 20 out of thousands of servers and a hundred thousand tools, on behalf of an
administrator, who sees all, and of a user, who sees twenty servers.
"""

import http.client
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import MongoClient

from scripts.bench.access import signing_keys, user_token
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

SIZES = ((1_000, 20), (10_000, 10))
"""Servers, and tools of each."""

SEEN = 20
BATCH = 2_000
FOLLOW_SECONDS = 600.0
ANSWER_SECONDS = 120.0
PER_PAGE = "per_page=20"

REVIEWS = "review=pending"
SERVER_LISTS = (
    ("", "servers"),
    ("status=active", "servers, by status"),
    ("page=11", "servers, page 11"),
    ("query=server+ordinary", "servers, two words"),
)
TOOL_LISTS = (
    ("", "tools"),
    ("read_only=true", "tools, by a flag"),
    ("query=tool+records", "tools, two words that all have"),
    ("query=number+777", "tools, two words that few have"),
    (REVIEWS, "review queue"),
)
OTHER_LISTS = (
    ("/servers/stats", "statistics"),
    ("/mcp/connection/status", "connections"),
    (f"/tokens?{PER_PAGE}", "tokens"),
    (f"/sync/jobs?{PER_PAGE}", "jobs"),
    ("/audit?limit=20", "audit trail"),
    (f"/access/policies?{PER_PAGE}", "policies"),
)


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Store servers with their tools, twice, and read a page of each list."""
    user_id = ObjectId()
    tokens = {
        "administrator": stage.token,
        "user": user_token(signing_keys(stage.home), str(user_id)),
    }
    for servers, tools_each in SIZES:
        fill(stage.mongo_uri, user_id, servers, tools_each)
        _followed(stage, tokens["administrator"], servers, tools_each)
        report.section(f"pages of 20 out of {servers:,} servers with {tools_each} tools each")
        for who, token in tokens.items():
            bar = Bar(40 if servers <= SIZES[0][0] else 80)
            for query, label in SERVER_LISTS:
                spent = _times(stage, token, f"/servers?{PER_PAGE}&{query}", plan)
                figure = f"{who}: {label} out of {servers:,}"
                report.row(figure, spent, "ms", None if query else bar)
            for query, label in TOOL_LISTS:
                if who == "user" and query == REVIEWS:
                    continue
                spent = _times(stage, token, f"/registry/tools?{PER_PAGE}&{query}", plan)
                figure = f"{who}: {label} out of {servers * tools_each:,}"
                report.row(figure, spent, "ms", None if query else Bar(60))
        for path, label in OTHER_LISTS:
            spent = _times(stage, tokens["administrator"], path, plan)
            report.row(f"administrator: {label}", spent, "ms")


def _times(stage: Stage, token: str, path: str, plan: Plan) -> Sequence[float]:
    """Return the p50 of each round in milliseconds."""
    connection = http.client.HTTPConnection(HOST, stage.port, timeout=ANSWER_SECONDS)
    headers = {"Authorization": f"Bearer {token}"}
    found: list[float] = []
    _asked(connection, path, headers)
    for _ in range(plan.rounds):
        began_at = time.monotonic()
        spent: list[float] = []
        while not spent or time.monotonic() - began_at < plan.seconds:
            before = time.perf_counter()
            _asked(connection, path, headers)
            spent.append((time.perf_counter() - before) * 1000)
        found.append(statistics.median(spent))
    connection.close()
    return found


def _asked(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str]
) -> dict[str, Any]:
    connection.request("GET", f"/api/v1{path}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != http.client.OK:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
    found: dict[str, Any] = json.loads(body)
    return found


def _followed(stage: Stage, token: str, servers: int, tools_each: int) -> None:
    """Wait until lists show all that was stored."""
    connection = http.client.HTTPConnection(HOST, stage.port, timeout=ANSWER_SECONDS)
    headers = {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + FOLLOW_SECONDS
    while time.monotonic() < deadline:
        # Refused while the registry is behind for longer than lists may be.
        with suppress(RuntimeError):
            found = _asked(connection, f"/servers?{PER_PAGE}", headers)
            tools = _asked(connection, f"/registry/tools?{PER_PAGE}", headers)
            followed = found["pagination"]["total"], tools["pagination"]["total"]
            if followed == (servers, servers * tools_each):
                break
        time.sleep(1)
    connection.close()


def fill(uri: str, user_id: ObjectId, servers: int, tools_each: int) -> None:
    """Store servers of other people, of which a user sees some, in place of what was there."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        database = client.get_default_database()
        for name in ("mcpservers", "mcp_tools", "aclentries"):
            database[name].delete_many({})
        database["users"].update_one(
            {"_id": user_id}, {"$set": {"username": "bench", "role": "USER"}}, upsert=True
        )
        stored = [_server(number, servers) for number in range(servers)]
        entries = [
            {
                "principalType": "user",
                "principalId": user_id if number % (servers // SEEN) == 0 else server["author"],
                "principalModel": "User",
                "resourceType": "mcpServer",
                "resourceId": server["_id"],
                "permBits": 1,
            }
            for number, server in enumerate(stored)
        ]
        rows = [
            row
            for number in range(tools_each)
            for server in stored
            for row in [_tool(server["_id"], number)]
        ]
        for name, documents in (
            ("mcp_tools", rows),
            ("aclentries", entries),
            ("mcpservers", stored),
        ):
            for batch in _batches(documents):
                database[name].insert_many(batch, ordered=False)


def _batches(documents: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(documents), BATCH):
        yield documents[start : start + BATCH]


def _server(number: int, servers: int) -> dict[str, Any]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "_id": ObjectId(),
        "serverName": f"listed-{number}",
        "normalizedServerName": f"listed-{number}",
        "config": {
            "title": f"Server {number}",
            "description": "One that stands for an ordinary one in a long list.",
            "type": "streamable-http",
            "url": f"http://127.0.0.1:9/listed-{number}",
            "requiresOAuth": False,
            "capabilities": '{"tools":{"listChanged":true}}',
            "tools": ", ".join(f"tool_{index}" for index in range(10)),
            "initDuration": 120,
        },
        "author": ObjectId(),
        "scope": "shared_user",
        "status": "active",
        "path": f"/mcp/listed-{number}",
        "tags": ["bench", "list"],
        "numTools": 10,
        "numStars": 0,
        "registry": {"auto_expose": "all", "eras": ["legacy", "modern"]},
        "createdAt": start,
        "updatedAt": start + timedelta(seconds=number * 7919 % servers),
    }


def _tool(owner: ObjectId, number: int) -> dict[str, Any]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    name = f"tool_{number}"
    is_served, is_read_only = number != 1, not number % 3
    description = f"Searches the records of this service, number {number} of {owner}. " * 4
    schema = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for."},
            "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
        },
        "required": ["query"],
    }
    definition = {"name": name, "description": description, "inputSchema": schema}
    effects = [f"read_only:{str(is_read_only).lower()}"]
    return {
        "_id": ObjectId(),
        "source_type": "mcp",
        "owner_id": owner,
        "name": name,
        "external_id": name,
        "description": description,
        "definition": json.dumps(definition),
        "input_schema": json.dumps(schema),
        "registration_state": "selected" if is_served else "unselected",
        "exposure_state": "active" if is_served else "draft",
        "discovery_hash": "0" * 64,
        "served_version": 1,
        "versions": 1,
        "tool_metadata": {},
        "metadata": {"read_only": is_read_only},
        "metadata_sources": {"read_only": "upstream"},
        "facets": effects if is_served else [*effects, "review:new"],
        **({} if is_served else {"review": "new"}),
        "position": number,
        "last_discovered_at": now,
        "last_synced_at": now,
        "created_at": now,
        "updated_at": now,
    }
