"""What governance adds to a call: the same call at a registry with nothing of it, and with all.

Both have the tool with 40 arguments, and get calls with 1 KiB of them. One validates nothing; the
other has 5,000 policies, 500 limits, prices, a budget and validation.
"""

import asyncio
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

from bson import ObjectId
from pymongo import MongoClient

from scripts.bench.load import Client, Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage, staged

BUSY = 16
PROCESSES, CONNECTIONS = 3, 24
MOST_SECONDS = 30.0
MEMBERS = 40
POLICIES, LIMITS = 5_000, 500
SERVER = "governed"
PATH = f"/members/{MEMBERS}/mcp"
ARGUMENTS = {f"field_{number:02}": "x" * 10 for number in range(MEMBERS - 1)}
"""With the text, 1 KiB of JSON."""

SETTLE_SECONDS = 5.0
COMMANDS = "mongodb_command_duration_seconds_count"
PATHS = {f"/mcp/{SERVER}": 0.16, "/mcp": 0.22}
MANY = 1_000_000_000
EVERYONE: dict[str, object] = {"everyone": True}


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Measure calls with and without governance in turn, and how fast a quarantine is known."""
    with staged() as other:
        _bare(stage)
        _governed(other)
        time.sleep(SETTLE_SECONDS)
        _calls(report, stage, other, plan)
    with staged("--workers", str(PROCESSES)) as several:
        seconds = [_quarantine(several) for _ in range(plan.rounds)]
    report.section(f"quarantine of a tool, {PROCESSES} processes, {CONNECTIONS} connections")
    report.row("from the request until all processes refuse", seconds, "s", Bar(1))


def _calls(report: Report, bare: Stage, governed: Stage, plan: Plan) -> None:
    cpu = defaultdict[tuple[str, bool], list[float]](list)
    commands: list[float] = []
    errors = 0
    for _ in range(plan.rounds):
        for path in PATHS:
            for stage in (bare, governed):
                is_governed = stage is governed
                idle = _commands(stage, plan.seconds) if is_governed else 0.0
                before, counted = cpu_seconds(stage.pid), stage.metric(COMMANDS)
                busy = asyncio.run(run(_target(stage, path), BUSY, plan.seconds))
                calls = requests_of(busy, BUSY)
                cpu[path, is_governed].append((cpu_seconds(stage.pid) - before) / calls * 1000)
                if is_governed:
                    more = stage.metric(COMMANDS) - counted - idle
                    commands.append(max(0.0, more) / calls)
                errors += busy.errors
    report.section(
        f"tools/call with 1 KiB of arguments for {MEMBERS} members: {POLICIES:,} policies, "
        f"{LIMITS} limits, validation, prices and a budget"
    )
    for path, most in PATHS.items():
        report.row(f"CPU of a call on `{path}` without governance", cpu[path, False], "ms")
        label = f"CPU of a call on `{path}` with governance"
        report.row(label, cpu[path, True], "ms", Bar(most))
        pairs = zip(cpu[path, True], cpu[path, False], strict=True)
        report.row(f"{label} / without", [ours / bare for ours, bare in pairs], bar=Bar(1.4))
    # Batches of records and leases of quota are among them: no figure of a single call.
    report.row("database operations of all kinds for each call", commands)
    report.errors(errors)


def _commands(stage: Stage, seconds: float) -> float:
    """Return how many database commands are sent in some time without calls."""
    before = stage.metric(COMMANDS)
    time.sleep(seconds)
    return stage.metric(COMMANDS) - before


def _target(stage: Stage, path: str) -> Target:
    tool = "echo" if path != "/mcp" else f"{SERVER}__echo"
    return replace(stage.gateway(path), tool=tool, arguments=ARGUMENTS)


def _bare(stage: Stage) -> None:
    _said(stage, stage.register(SERVER, stage.upstream_port, PATH), {"validate": "off"})


def _governed(stage: Stage) -> None:
    server_id = stage.register(SERVER, stage.upstream_port, PATH)
    _said(stage, server_id, {"validate": "on", "price_per_call": 0.001, "billing_tags": ["gpu"]})
    stage.ask("budgets", {"name": "all", "amount": MANY, "subjects": EVERYONE})
    target: dict[str, object] = {"owner_id": server_id, "tools": ["other*"]}
    policy: dict[str, object] = {
        "name": "0",
        "effect": "deny",
        "target": target,
        "subjects": EVERYONE,
    }
    stage.ask("access/policies", policy)
    rates = [{"count": 1_000_000, "per": "minute"}]
    limit: dict[str, object] = {"name": "0", "target": target, "per": ["user"], "rates": rates}
    stage.ask("limits", limit)
    applying: dict[str, object] = {
        "target": {"owner_id": server_id},
        "rates": rates,
        "in_flight": 1000,
    }
    for number, per in enumerate((["user"], ["tool"], ["user", "tool"])):
        stage.ask("limits", {"name": f"applies {number}", "per": per, **applying})
    with MongoClient[dict[str, Any]](stage.mongo_uri, tz_aware=True) as client:
        database = client.get_default_database()
        for name, count in (("access_policies", POLICIES), ("limits", LIMITS - 3)):
            (like,) = database[name].find({"name": "0"})
            database[name].insert_many(
                [
                    {**like, "_id": ObjectId(), "name": str(one), "tools": [f"other{one}*"]}
                    for one in range(1, count)
                ]
            )


def _said(stage: Stage, server_id: str, metadata: dict[str, object]) -> None:
    """Set the metadata of the tool."""
    tools = stage.ask("registry/tools?per_page=100", None)["tools"]
    (tool_id,) = [tool["id"] for tool in tools if tool["owner_id"] == server_id]
    stage.ask(f"registry/tools/{tool_id}", {"tool_metadata": metadata}, "PATCH")


def _quarantine(stage: Stage) -> float:
    """Quarantine a tool and lift it; return the seconds until all connections are refused.

    There are enough connections that every process has some.
    """
    body: dict[str, object] = {"reason": "bench", "subject": stage.server_id}
    seconds, added = asyncio.run(_refused(stage, {**body, "kind": "tool", "tool": "echo"}))
    stage.ask(f"access/quarantine/{added}", None, "DELETE")
    time.sleep(1)
    return seconds


async def _refused(stage: Stage, body: dict[str, object]) -> tuple[float, str]:
    clients = [Client(stage.one()) for _ in range(CONNECTIONS)]
    for client in clients:
        await client.connect()
        if not await client.ask("before"):
            raise RuntimeError("a call was refused before the quarantine")
    began_at = time.monotonic()
    added = await asyncio.to_thread(stage.ask, "access/quarantine", body)
    params = {"name": "echo", "arguments": {"text": "a"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    waiting = clients
    while waiting:
        answers = [(client, await client.send(message)) for client in waiting]
        waiting = [client for client, (_, _, body) in answers if b"quarantine" not in body]
        if time.monotonic() - began_at > MOST_SECONDS:
            raise RuntimeError("a process does not know of the quarantine")
    seconds = time.monotonic() - began_at
    for client in clients:
        client.close()
    return seconds, str(added["id"])
