"""Synchronization: one unchanged server, and a thousand servers for the first time.

The upstream's own time is that of the same requests, sent by a client that does nothing else.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bson import ObjectId
from pymongo import MongoClient

from registry.core.clock import SystemClock
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

TOOLS = 500
PATH = f"/tools/{TOOLS}/one"
SERVERS = 1_000
TOOLS_EACH = 20
AT_ONCE = 16
TIMEOUT_SECONDS = 600.0
JOB_SECONDS = 60.0
WARM_UP = 3
WRITES = ("insert", "update", "delete", "findAndModify", "bulkWrite")


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Measure both on the registry's embedded database."""
    _unchanged(report, stage, max(plan.rounds, 5))
    report.section(f"{SERVERS:,} servers with {TOOLS_EACH} tools each are read for the first time")
    _first(report, stage, "beside a running registry")
    os.kill(stage.pid, signal.SIGSTOP)
    try:
        _first(report, stage, "alone")
    finally:
        os.kill(stage.pid, signal.SIGCONT)


def _unchanged(report: Report, stage: Stage, rounds: int) -> None:
    server_id = stage.register("large", stage.upstream_port, PATH)
    for _ in range(WARM_UP):
        _refresh(stage, server_id)
    beyond: list[float] = []
    job_beyond: list[float] = []
    writes: list[float] = []
    job_writes: list[float] = []
    for _ in range(rounds):
        own = _upstream_ms(stage)
        before = _writes(stage)
        beyond.append(_refresh(stage, server_id) - own)
        between = _writes(stage)
        job_beyond.append(_job_ms(stage, server_id) - own)
        writes.append(between - before)
        job_writes.append(_writes(stage) - between)
    report.section(f"a server with {TOOLS} tools is read again, unchanged")
    report.row("unchanged sync: beyond the upstream's own time", beyond, "ms", Bar(60))
    report.row("unchanged sync: writes", writes, "", Bar(2))
    report.row("the same as a job, from taken to done", job_beyond, "ms")
    report.row("writes of the job, its own records included", job_writes, "")


def _first(report: Report, stage: Stage, way: str) -> None:
    names = _fill(stage.mongo_uri, stage.upstream_port, way.split(maxsplit=1)[0])
    command = [
        str(Path(sys.executable).with_name("registry")),
        *("sync", "run", "--json", "--concurrency", str(AT_ONCE), *names),
    ]
    cpu = cpu_seconds(stage.database())
    began_at = time.monotonic()
    before = os.times()
    ended = subprocess.run(
        command,
        env={"REGISTRY_HOME": str(stage.home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    seconds = time.monotonic() - began_at
    after = os.times()
    totals = json.loads(ended.stdout)["totals"]
    bar = Bar(40, is_least=True)
    report.row(f"first sync, {way}: servers a second", [len(names) / seconds], "", bar)
    own = after.children_user + after.children_system
    own -= before.children_user + before.children_system
    label = f"processor time of a server, {way}"
    report.row(f"{label}: reading process", [own / len(names) * 1000], "ms")
    database = cpu_seconds(stage.database()) - cpu
    report.row(f"{label}: database", [database / len(names) * 1000], "ms")
    report.errors(int(totals["failed"]) + abs(totals["tools added"] - SERVERS * TOOLS_EACH))


def _fill(uri: str, port: int, prefix: str) -> list[str]:
    """Store servers that were never read; return their names."""
    now = SystemClock().now()
    names = [f"{prefix}-{number:04}" for number in range(SERVERS)]
    rows = [
        {
            "_id": ObjectId(),
            "serverName": name,
            "config": {
                "type": "streamable-http",
                "url": f"http://{HOST}:{port}/tools/{TOOLS_EACH}/{name}",
            },
            "author": ObjectId("0" * 24),
            "scope": "shared_app",
            "status": "active",
            "path": f"/mcp/{name}",
            "createdAt": now,
            "updatedAt": now,
        }
        for name in names
    ]
    client: MongoClient[dict[str, object]] = MongoClient(uri)
    with client:
        client.get_default_database()["mcpservers"].insert_many(rows)
    return names


def _writes(stage: Stage) -> float:
    """Return how many commands the registry sent that write."""
    url = f"http://{HOST}:{stage.port}/metrics"
    with urllib.request.urlopen(url, timeout=JOB_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'mongodb_command_duration_seconds_count{{command="{name}"' for name in WRITES]
    return sum(float(line.split()[-1]) for line in lines if line.startswith(tuple(wanted)))


def _ask(stage: Stage, method: str, path: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://{HOST}:{stage.port}/api/v1{path}",
        method=method,
        headers={"Authorization": f"Bearer {stage.token}"},
    )
    with urllib.request.urlopen(request, timeout=JOB_SECONDS) as answer:  # noqa: S310 - ours
        found: dict[str, object] = json.load(answer)
    return found


def _refresh(stage: Stage, server_id: str) -> float:
    """Return how many milliseconds it takes to refresh a server."""
    began_at = time.perf_counter()
    _ask(stage, "POST", f"/servers/{server_id}/refresh")
    return (time.perf_counter() - began_at) * 1000


def _job_ms(stage: Stage, server_id: str) -> float:
    job_id = _ask(stage, "POST", f"/sync/owners/{server_id}")["job_id"]
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        job = _ask(stage, "GET", f"/sync/jobs/{job_id}")
        if job["state"] == "succeeded":
            return float(str(job["duration_ms"]))
        time.sleep(0.02)
    raise TimeoutError


def _upstream_ms(stage: Stage) -> float:
    """Return how many milliseconds the upstream takes for what discovery asks it."""
    url = f"http://{HOST}:{stage.upstream_port}{PATH}"
    modern = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    legacy = {"protocolVersion": "2025-11-25", "capabilities": {}}
    asked = [
        {"method": "server/discover", "params": modern},
        {"method": "tools/list", "params": modern},
        {"method": "initialize", "params": legacy},
    ]
    began_at = time.perf_counter()
    for number, message in enumerate(asked):
        body = json.dumps({"jsonrpc": "2.0", "id": number, **message}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=JOB_SECONDS) as answer:  # noqa: S310 - ours
            answer.read()
    return (time.perf_counter() - began_at) * 1000
