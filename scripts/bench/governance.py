"""What governance adds to a call: the same call at a registry with nothing of it, and with all.

Both have the tool with 40 arguments, and get calls with 1 KiB of them. One validates nothing; the
other has 5,000 policies, 500 limits, prices, a budget, validation and a toolset. The overshoot of
limits is measured by `limits`, the race for one approval by `approvals`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
from bson import ObjectId
from pymongo import MongoClient

from packages.models.states import Effect
from registry.access.policies.values import EVERYONE, Policy, PolicyTarget, Subjects
from registry.access.policy import decide_use
from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.gateway.edge.arguments import ArgumentChecker
from registry.gateway.values import ToolEntry, tool_entry
from registry.gateway.view.policy_filter import RoutePolicies
from scripts.bench.limits import route_of
from scripts.bench.load import Client, Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage, staged
from scripts.bench.upstream import listed

BUSY = 16
PROCESSES, CONNECTIONS = 3, 24
MOST_SECONDS = 30.0
MEMBERS = 40
POLICIES, LIMITS = 5_000, 500
SERVER = "governed"
PATH = f"/members/{MEMBERS}/mcp"
ARGUMENTS = {f"field_{number:02}": "x" * 10 for number in range(MEMBERS - 1)}
"""With the text, 1 KiB of JSON."""

SETTLE_SECONDS, CALM_SECONDS = 120.0, 5
CALM = 0.1
"""The embedded database is calm while it takes less of a processor."""

COMMANDS = "mongodb_command_duration_seconds_count"
TOOLSET = "all"
PATHS = {
    f"/mcp/{SERVER}": (f"/mcp/{SERVER}", 0.16),
    "/mcp": ("/mcp", 0.22),
    f"/mcp/toolsets/{TOOLSET}": ("/mcp", 0.22),
}
"""Paths with governance, what they are compared with, and the most milliseconds of a call."""

TOOLS = {"/mcp": f"{SERVER}__echo", f"/mcp/toolsets/{TOOLSET}": "said"}
MANY = 1_000_000_000
ALL: dict[str, object] = {"everyone": True}
REPEATS = 20_000
BUDGETED, BUDGET_CLIENTS = 300, 24
BURST_SECONDS = 0.25
SPENT_SECONDS = 3.0
"""How long no call gets through until a budget counts as spent at all processes."""


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Measure calls with and without governance in turn, and how fast a quarantine is known."""
    with staged() as other:
        _bare(stage)
        _governed(other)
        _settle(other)
        _calls(report, stage, other, plan)
    _alone(report, plan)
    with staged("--workers", str(PROCESSES)) as several:
        seconds = [_quarantine(several) for _ in range(plan.rounds)]
        beyond = [asyncio.run(_overspend(several, number)) for number in range(plan.rounds)]
    report.section(
        f"a budget for {BUDGETED} calls, {BUDGET_CLIENTS / BURST_SECONDS:.0f} calls a second at "
        f"{PROCESSES} processes"
    )
    report.row("calls beyond it", [float(calls) for calls in beyond])
    rate = BUDGET_CLIENTS / BURST_SECONDS
    report.row("the same in seconds of calls", [calls / rate for calls in beyond], "s")
    report.section(f"quarantine of a tool, {PROCESSES} processes, {CONNECTIONS} connections")
    report.row("from the request until all processes refuse", seconds, "s", Bar(1))


def _calls(report: Report, bare: Stage, governed: Stage, plan: Plan) -> None:
    cpu = defaultdict[tuple[str, bool], list[float]](list)
    commands: list[float] = []
    errors = 0
    for _ in range(plan.rounds):
        for path, (bare_path, _) in PATHS.items():
            for stage, at in ((bare, bare_path), (governed, path)):
                is_governed = stage is governed
                idle = _commands(stage, plan.seconds) if is_governed else 0.0
                before, counted = cpu_seconds(stage.pid), stage.metric(COMMANDS)
                busy = asyncio.run(run(_target(stage, at), BUSY, plan.seconds))
                calls = requests_of(busy, BUSY)
                cpu[path, is_governed].append((cpu_seconds(stage.pid) - before) / calls * 1000)
                if is_governed:
                    more = stage.metric(COMMANDS) - counted - idle
                    commands.append(max(0.0, more) / calls)
                errors += busy.errors
    report.section(
        f"tools/call with 1 KiB of arguments for {MEMBERS} members: {POLICIES:,} policies, "
        f"{LIMITS} limits, validation, prices, a budget and a toolset"
    )
    for path, (bare_path, most) in PATHS.items():
        report.row(f"CPU of a call on `{bare_path}` without governance", cpu[path, False], "ms")
        label = f"CPU of a call on `{path}` with governance"
        report.row(label, cpu[path, True], "ms", Bar(most))
        pairs = zip(cpu[path, True], cpu[path, False], strict=True)
        report.row(f"{label} / without", [ours / bare for ours, bare in pairs], bar=Bar(1.4))
    # Batches of records and leases of quota are among them: no figure of a single call.
    report.row("database operations of all kinds for each call", commands)
    report.errors(errors)


def _settle(stage: Stage) -> None:
    """Wait until all that was written is read again, which keeps the database busy for long."""
    database, deadline, calm = stage.database(), time.monotonic() + SETTLE_SECONDS, 0
    while calm < CALM_SECONDS and time.monotonic() < deadline:
        before = cpu_seconds(database)
        time.sleep(1)
        calm = calm + 1 if cpu_seconds(database) - before < CALM else 0


def _commands(stage: Stage, seconds: float) -> float:
    """Return how many database commands are sent in some time without calls."""
    before = stage.metric(COMMANDS)
    time.sleep(seconds)
    return stage.metric(COMMANDS) - before


def _target(stage: Stage, path: str) -> Target:
    return replace(stage.gateway(path), tool=TOOLS.get(path, "echo"), arguments=ARGUMENTS)


def _bare(stage: Stage) -> None:
    _said(stage, stage.register(SERVER, stage.upstream_port, PATH), {"validate": "off"})


def _governed(stage: Stage) -> None:
    server_id = stage.register(SERVER, stage.upstream_port, PATH)
    _said(stage, server_id, {"validate": "on", "price_per_call": 0.001, "billing_tags": ["gpu"]})
    stage.ask("budgets", {"name": "all", "amount": MANY, "subjects": ALL})
    entry = {"server": SERVER, "tool": "echo", "name": "said"}
    stage.ask("toolsets", {"name": TOOLSET, "entries": [entry]})
    target: dict[str, object] = {"owner_id": server_id, "tools": ["other*"]}
    policy: dict[str, object] = {
        "name": "0",
        "effect": "deny",
        "target": target,
        "subjects": ALL,
    }
    stage.ask("access/policies", policy)
    # One that is about the tool, so that each call is decided.
    applying: dict[str, object] = {"target": {"owner_id": server_id, "tools": ["ec*"]}}
    stage.ask("access/policies", {**policy, "name": "applies", "effect": "allow", **applying})
    rates = [{"count": 1_000_000, "per": "minute"}]
    limit: dict[str, object] = {"name": "0", "target": target, "per": ["user"], "rates": rates}
    stage.ask("limits", limit)
    applying = {
        "target": {"owner_id": server_id},
        "rates": rates,
        "in_flight": 1000,
    }
    for number, per in enumerate((["user"], ["tool"], ["user", "tool"])):
        stage.ask("limits", {"name": f"applies {number}", "per": per, **applying})
    with MongoClient[dict[str, Any]](stage.mongo_uri, tz_aware=True) as client:
        database = client.get_default_database()
        for name, count in (("access_policies", POLICIES - 1), ("limits", LIMITS - 3)):
            (like,) = database[name].find({"name": "0"})
            database[name].insert_many(
                [
                    {**like, "_id": ObjectId(), "name": str(one), "tools": [f"other{one}*"]}
                    for one in range(1, count)
                ]
            )


def _said(stage: Stage, server_id: str, metadata: dict[str, object]) -> None:
    """Set the metadata of the tool."""
    ids: list[str] = []
    while not ids:
        # With several processes, the one that answers may not know of the server yet.
        tools = stage.ask("registry/tools?per_page=100", None)["tools"]
        ids = [tool["id"] for tool in tools if tool["owner_id"] == server_id]
    (tool_id,) = ids
    stage.ask(f"registry/tools/{tool_id}", {"tool_metadata": metadata}, "PATCH")


def _alone(report: Report, plan: Plan) -> None:
    """Time the parts that decide, in this process."""
    decide, fits = asyncio.run(_decision()), _validation()
    report.section(f"in one process, {REPEATS:,} times")
    for label, does, most in (
        (f"decision with {POLICIES:,} policies of the server", decide, 10),
        (f"validation of 1 KiB of arguments for {MEMBERS} members", fits, 15),
    ):
        report.row(label, [_microseconds(does) for _ in range(plan.rounds)], "us", Bar(most))


def _microseconds(does: Callable[[], bool]) -> float:
    if not does():
        raise RuntimeError("the call was refused")
    began_at = time.perf_counter()
    for _ in range(REPEATS):
        does()
    return (time.perf_counter() - began_at) / REPEATS * 1e6


async def _decision() -> Callable[[], bool]:
    """Return the decision whether a caller may use a tool that policies name, once it is warm."""
    server_id, other_id = f"{5:024x}", f"{7:024x}"
    # The server's author.
    user = UserContext(server_id, "bench", Role.USER, USER_SCOPES)
    policies = [
        Policy(
            id=f"{number:024x}",
            name=str(number),
            effect=Effect.DENY,
            target=PolicyTarget(owner_id=server_id, tools=(f"other{number}*",)),
            subjects=EVERYONE,
        )
        for number in range(2, POLICIES)
    ]
    named = PolicyTarget(owner_id=server_id, tools=("ec*",))
    for number, effect, subject in ((0, Effect.ALLOW, server_id), (1, Effect.DENY, other_id)):
        subjects = Subjects(users=frozenset({subject}))
        policies.append(Policy(f"{number:024x}", str(number), effect, named, subjects))
    route = route_of(server_id, [_tool()])

    async def rest() -> None:
        """Let nobody else work."""

    applied = RoutePolicies()
    await applied.replace(policies, [route], rest)
    (policed,) = applied.applied([route])
    if policed.policies is None:
        raise RuntimeError("no policy applies")
    of_callers = policed.policies

    def decide() -> bool:
        is_allowed = decide_use(user, route.facts, admin_uses_private=False).allowed
        return is_allowed and "echo" in of_callers.seen_by(user).tools

    return decide


def _validation() -> Callable[[], bool]:
    """Return the check of arguments, once the definition is compiled."""
    checker, tool = ArgumentChecker(SystemClock(), Metrics()), _tool()
    arguments = {"text": "1", **ARGUMENTS}
    size = len(orjson.dumps(arguments))
    return lambda: checker.fits(tool, arguments, size)


def _tool() -> ToolEntry:
    (definition,) = listed(PATH)
    return tool_entry("echo", orjson.dumps(definition).decode())


async def _overspend(stage: Stage, number: int) -> int:
    """Call a tool with a budget until it is spent; return how many calls were beyond it.

    There are enough connections that every process has some.
    """
    name = f"billed{number}"
    server_id = await asyncio.to_thread(stage.register, name, stage.upstream_port)
    tags = {"price_per_call": 1, "billing_tags": [name]}
    await asyncio.to_thread(_said, stage, server_id, tags)
    budget = {"name": name, "amount": BUDGETED, "subjects": ALL, "billing_tags": [name]}
    await asyncio.to_thread(stage.ask, "budgets", budget)
    clock = SystemClock()
    # Until all processes know of it.
    await clock.sleep(2)
    clients = [
        Client(stage.gateway(f"/mcp/{name}", is_modern=True)) for _ in range(BUDGET_CLIENTS)
    ]
    for client in clients:
        await client.connect()
    began_at = last_at = time.monotonic()
    calls = bursts = 0
    while last_at + SPENT_SECONDS > time.monotonic():
        bursts += 1
        passed = sum(await asyncio.gather(*(client.ask(str(bursts)) for client in clients)))
        if passed:
            calls, last_at = calls + passed, time.monotonic()
        await clock.sleep(max(0.0, began_at + bursts * BURST_SECONDS - time.monotonic()))
    for client in clients:
        client.close()
    return calls - BUDGETED


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
