"""What a registry with a thousand servers and fifty thousand tools keeps in memory.

A process of its own builds the whole application on a database that is filled here, and says how
much is resident after loading, and at most while everything is read again.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo import MongoClient

from registry.core.clock import SystemClock
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage

SERVERS = 1_000
TOOLS_EACH = 50
BATCH = 5_000
DEFINITION_BYTES = 600
RELOADS = 3
ROUNDS = 2
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory in MiB.

    Attributes:
        bare: With nothing registered to be loaded yet, everything imported.
        loaded: After loading.
        at_most: The most ever, with everything read again several times.
        tools: How many tools were loaded.
        load_seconds: How long loading took.
    """

    bare: float
    loaded: float
    at_most: float
    tools: int
    load_seconds: float


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Fill the registry's database, and load it in processes of their own."""
    fill(stage.mongo_uri)
    rounds = min(ROUNDS, plan.rounds)
    found = [measure({"REGISTRY_HOME": str(stage.home)}) for _ in range(rounds)]
    tools = f"{SERVERS * TOOLS_EACH:,}"
    report.section(f"a process of its own loads {SERVERS:,} servers and {tools} tools")
    report.row("resident before", [one.bare for one in found], "MiB")
    label = f"resident memory with {SERVERS:,} servers and {tools} tools"
    report.row(label, [one.loaded for one in found], "MiB", Bar(400, 250))
    report.row("at most, with everything read again", [one.at_most for one in found], "MiB")
    report.row("loaded after", [one.load_seconds for one in found], "s")
    report.errors(sum(one.tools < SERVERS * TOOLS_EACH for one in found))


def fill(uri: str, servers: int = SERVERS, tools_each: int = TOOLS_EACH) -> None:
    """Store servers with tools, as registrations would have left them.

    Args:
        uri: Connection string that names the database.
        servers: How many.
        tools_each: How many tools each of them has.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client:
        owners = [ObjectId() for _ in range(servers)]
        now = SystemClock().now()
        client.get_default_database()["mcpservers"].insert_many(
            [_server(number, owner, now) for number, owner in enumerate(owners)]
        )
        rows = (_tool(owner, number, now) for owner in owners for number in range(tools_each))
        for batch in _batches(rows):
            client.get_default_database()["mcp_tools"].insert_many(batch, ordered=False)


def measure(environment: dict[str, str]) -> Resident:
    """Return what a process with these settings keeps in memory."""
    ended = subprocess.run(
        [sys.executable, "-m", "scripts.bench.memory", "--inside"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_SECONDS,
    )
    return Resident(**json.loads(ended.stdout.splitlines()[-1]))


def _server(number: int, owner: ObjectId, now: datetime) -> dict[str, Any]:
    name = f"server-{number:04}"
    return {
        "_id": owner,
        "serverName": name,
        "config": {
            "type": "streamable-http",
            "url": f"http://127.0.0.1:9/{name}",
            "title": f"Server {number}",
            "description": "One of a thousand.",
            "capabilities": '{"tools":{"listChanged":true}}',
            "tools": ", ".join(f"tool_{index:02}" for index in range(TOOLS_EACH)),
            "headers": {"X-Team": "bench"},
        },
        "author": ObjectId("0" * 24),
        "scope": "shared_app",
        "status": "active",
        "path": f"/mcp/{name}",
        "registry": {"auto_expose": "all", "eras": ["legacy", "modern"]},
        "createdAt": now,
        "updatedAt": now,
    }


def _tool(owner: ObjectId, number: int, now: datetime) -> dict[str, Any]:
    name = f"tool_{number:02}"
    schema = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": f"What to look for in {owner}."},
            "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
            "filters": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["query"],
    }
    definition = {"name": name, "description": "", "inputSchema": schema}
    missing = DEFINITION_BYTES - len(json.dumps(definition))
    definition["description"] = ("Searches the records of this service. " * 20)[:missing]
    return {
        "source_type": "mcp",
        "owner_id": owner,
        "name": name,
        "definition": json.dumps(definition),
        "input_schema": json.dumps(schema),
        "registration_state": "selected",
        "exposure_state": "active",
        "discovery_hash": "0" * 64,
        "position": number,
        "updated_at": now,
    }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _status_mib(member: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(member):
            return int(line.split()[1]) / 1024
    raise KeyError(member)


async def _inside() -> None:
    # Imported here: only the process under measurement pays for them.
    from registry.main import application  # noqa: PLC0415
    from registry.processes.local.home import found_settings  # noqa: PLC0415

    bare = _status_mib("VmRSS")
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    async with application(found_settings()) as (_app, parts):
        load_seconds = loop.time() - began_at
        loaded = _status_mib("VmRSS")
        for _ in range(RELOADS):
            await parts.snapshot.load()
        routes = parts.snapshot.routes().values()
        found = Resident(
            bare=bare,
            loaded=loaded,
            at_most=_status_mib("VmHWM"),
            tools=sum(len(route.tools) for route in routes),
            load_seconds=load_seconds,
        )
    print(json.dumps({name: getattr(found, name) for name in found.__slots__}))


def main() -> None:
    """Measure a registry with the environment's settings, in this very process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", action="store_true", required=True)
    parser.parse_args()
    asyncio.run(_inside())


if __name__ == "__main__":
    main()
