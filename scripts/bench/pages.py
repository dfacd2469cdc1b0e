"""What a page of `GET /servers` costs against its query through the bare driver."""

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

from bson import ObjectId
from pymongo import MongoClient

from scripts.bench.load import WARM_UP_CALLS, Kind, run
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage

SERVERS = 1_000
QUERIES = 150
IDLE_SECONDS = 5.0
FOLLOW_SECONDS = 2.0
PATH = "/api/v1/servers?per_page=20&page=3"

BARE_QUERY = """
import asyncio, sys, time
from pymongo import AsyncMongoClient
async def main(uri, times):
    client = AsyncMongoClient(uri, tz_aware=True)
    servers = client.get_default_database()["mcpservers"]
    sort = [("updatedAt", -1), ("_id", 1)]
    async def once():
        await servers.count_documents({}, hint=sort)
        found = servers.find({}, {"config.toolFunctions": 0}).sort(sort).hint(sort)
        return [item async for item in found.skip(40).limit(20)]
    for _ in range(20):
        await once()
    before = time.process_time()
    for _ in range(times):
        await once()
    print((time.process_time() - before) / times * 1000)
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Store a thousand servers, and read a page of them again and again."""
    uri = stage.mongo_uri
    with MongoClient[dict[str, object]](uri, tz_aware=True) as client:
        servers = client.get_default_database()["mcpservers"]
        author = servers.find_one({})
        if author is None:
            raise RuntimeError("the registered server is not in the database")
        servers.insert_many(_documents(author["author"]))
    time.sleep(FOLLOW_SECONDS)
    ours: list[float] = []
    bare: list[float] = []
    errors = 0
    # The embedded database takes its time, in which the process does other things too: it
    # follows changes, and watches connections. That is no request's cost.
    idle = _idle_cpu(stage)
    for _ in range(plan.rounds):
        began_at, before = time.monotonic(), stage.cpu_seconds()
        result = asyncio.run(run(stage.gateway(PATH, kind=Kind.PAGE), 1, plan.seconds))
        spent = stage.cpu_seconds() - before - idle * (time.monotonic() - began_at)
        ours.append(spent / (result.calls + WARM_UP_CALLS) * 1000)
        bare.append(_bare_query_cpu(uri))
        errors += result.errors
    report.section(f"GET /servers, page of 20 out of {SERVERS}")
    report.fact(f"CPU of the idle process, not counted below: {idle * 1000:.1f} ms/s")
    report.row("CPU of a request", ours, "ms")
    report.row("CPU of the same query through the bare driver", bare, "ms")
    label = "CPU of `GET /servers` / the same query through the driver"
    report.row(label, [a / b for a, b in zip(ours, bare, strict=True)], bar=Bar(2))
    report.errors(errors)


def _idle_cpu(stage: Stage) -> float:
    """Return the CPU seconds that the process spends in a second without requests."""
    before = stage.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return (stage.cpu_seconds() - before) / IDLE_SECONDS


def _bare_query_cpu(uri: str) -> float:
    command = [sys.executable, "-c", BARE_QUERY, uri, str(QUERIES)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _documents(author: object) -> list[dict[str, object]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        {
            "_id": ObjectId(),
            "serverName": f"bench-{number}",
            "config": {
                "title": f"Server {number}",
                "description": "A server that stands for an ordinary one in a long list.",
                "type": "streamable-http",
                "url": f"https://mcp-{number}.example.com/mcp",
                "requiresOAuth": False,
                "capabilities": '{"tools":{"listChanged":true}}',
                "tools": ", ".join(f"tool_{index}" for index in range(10)),
                "initDuration": 120,
            },
            "author": author,
            "scope": "shared_app",
            "status": "inactive",
            "path": f"/mcp/bench-{number}",
            "tags": ["bench", "list"],
            "numTools": 10,
            "numStars": 0,
            "createdAt": start,
            "updatedAt": start + timedelta(minutes=number),
        }
        for number in range(SERVERS)
    ]
