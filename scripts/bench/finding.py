"""What tool search saves its clients, what it costs, and how lists and searches grow.

A token is estimated as four bytes, as `token_metrics` does.
"""

import asyncio
import http.client
import json
import time
from typing import Any

from bson import ObjectId

from scripts.bench.calls import BUSY
from scripts.bench.listing import ANSWER_SECONDS, fill
from scripts.bench.load import requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, SERVER, Stage, staged
from scripts.bench.upstream import MANY, TOOLS_EACH

SERVERS = 30
SEARCHED = "/mcp?tools=search"
QUERIES = (
    "search records",
    "search 017 records of the first server",
    "find what was stored about a customer",
)
REPEATS = 10
SIZES = (100, 1_000)
"""Registered servers, and as many entries of the catalog."""

TIMES = 20
KNOWN_SECONDS = 120.0


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Compare a client that lists all tools with one that finds them."""
    _saved(report, stage, plan)
    _called(report, stage, plan)
    p95 = {size: _p95_of(size) for size in SIZES}
    few, many = SIZES
    report.section(f"{many:,} servers and {many:,} entries of the catalog, to {few} and {few}")
    for name, seconds in p95[many].items():
        report.row(f"{name}, p95", [seconds * 1000], "ms")
        report.row(f"{name}, p95, to that of {few}", [seconds / p95[few][name]], bar=Bar(2))


def _saved(report: Report, stage: Stage, plan: Plan) -> None:
    stage.switch_all_off()
    for number in range(SERVERS):
        stage.register(f"{SERVER}-{number}", stage.upstream_port, f"{MANY}{number}")
    count = SERVERS * TOOLS_EACH
    whole = _whole_list(stage, count)
    short = _tokens(_rpc(stage, SEARCHED, "tools/list", {})["tools"])
    saved: list[float] = []
    spent: list[float] = []
    for _ in range(plan.rounds):
        before = stage.cpu_seconds()
        for query in QUERIES * REPEATS:
            found = _rpc(stage, SEARCHED, "tools/call", _find(query))
            text = found["content"][0]["text"]
            saved.append((1 - (short + len(text.encode()) / 4) / whole) * 100)
        spent.append((stage.cpu_seconds() - before) / (len(QUERIES) * REPEATS) * 1000)
    report.section(f"tokens of the tools of a client with {count:,}")
    report.row("the whole list", [whole])
    report.row("the list of a client that searches", [short])
    report.row(
        "saved, with one `find_tool` of whole definitions", saved, "%", Bar(95, is_least=True)
    )
    report.row("CPU of a `find_tool`", spent, "ms")


def _called(report: Report, stage: Stage, plan: Plan) -> None:
    stage.toggle(is_enabled=True)
    _known(stage, f"{SERVER}__echo")
    direct = stage.combined()
    others = {"server_name": SERVER, "tool_name": "echo"}
    by_search = stage.gateway(SEARCHED, called_by=("call_tool", others))
    spent: dict[str, list[float]] = {"direct": [], "by_search": []}
    errors = 0
    for _ in range(plan.rounds):
        for name, target in (("direct", direct), ("by_search", by_search)):
            before = cpu_seconds(stage.pid)
            result = asyncio.run(run(target, BUSY, plan.seconds))
            spent[name].append(
                (cpu_seconds(stage.pid) - before) / requests_of(result, BUSY) * 1000
            )
            errors += result.errors
    pairs = zip(spent["by_search"], spent["direct"], strict=True)
    report.row("CPU of a call by `call_tool`", spent["by_search"], "ms")
    report.row(
        "CPU of it, to that of the call by its own name", [ours / own for ours, own in pairs]
    )
    report.errors(errors)


def _p95_of(size: int) -> dict[str, float]:
    """Return the seconds of a page of servers, a page of the catalog and a search."""
    with staged() as stage:
        fill(stage.mongo_uri, ObjectId(), size, 2)
        listed = [
            {
                "server": {
                    "name": f"com.example/entry-{number}",
                    "description": f"Keeps ordinary records, number {number}",
                    "version": "1.0.0",
                    "remotes": [
                        {"type": "streamable-http", "url": f"https://{number}.example.com/mcp"}
                    ],
                }
            }
            for number in range(size)
        ]
        stage.ask("catalog/imports", {"source": "bench", "document": {"servers": listed}})
        _until(lambda: stage.ask("servers?per_page=1", None)["pagination"]["total"] >= size)
        _until(
            lambda: stage.ask("catalog/servers?per_page=1", None)["pagination"]["total"] >= size
        )
        query = {"query": "keeps ordinary records", "limit": 10}
        return {
            "a page of servers": _p95(stage, "GET", "servers?per_page=20", None),
            "a page of the catalog": _p95(stage, "GET", "catalog/servers?per_page=20", None),
            "a search": _p95(stage, "POST", "search", query),
        }


def _p95(stage: Stage, method: str, path: str, body: dict[str, object] | None) -> float:
    connection = http.client.HTTPConnection(HOST, stage.port, timeout=ANSWER_SECONDS)
    headers = {"Authorization": f"Bearer {stage.token}", "Content-Type": "application/json"}
    text = None if body is None else json.dumps(body)
    times: list[float] = []
    for _ in range(5 * TIMES):
        began_at = time.perf_counter()
        connection.request(method, f"/api/v1/{path}", text, headers)
        answer = connection.getresponse()
        content = answer.read()
        times.append(time.perf_counter() - began_at)
        if answer.status != http.client.OK:
            raise RuntimeError(content[:500])
    connection.close()
    # The first ones find nothing prepared.
    return sorted(times[TIMES:])[int(0.95 * 4 * TIMES)]


def _whole_list(stage: Stage, count: int) -> float:
    """Return the tokens of all pages of the combined list, once it has all tools."""
    deadline = time.monotonic() + KNOWN_SECONDS
    while True:
        tools: list[dict[str, Any]] = []
        params: dict[str, object] = {}
        while True:
            page = _rpc(stage, "/mcp", "tools/list", params)
            tools += page["tools"]
            if "nextCursor" not in page:
                break
            params = {"cursor": page["nextCursor"]}
        if len(tools) == count:
            return _tokens(tools)
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(tools)} tools of {count}")
        time.sleep(0.5)


def _known(stage: Stage, name: str) -> None:
    _until(lambda: "result" in _answer(stage, "/mcp", "tools/call", _echo(name)))


def _until(holds: Any) -> None:
    deadline = time.monotonic() + KNOWN_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("what was stored is not known in time")
        time.sleep(0.2)


def _echo(name: str) -> dict[str, object]:
    return {"name": name, "arguments": {"text": "hi"}}


def _find(query: str) -> dict[str, object]:
    return {"name": "find_tool", "arguments": {"tool_description": query}}


def _tokens(tools: object) -> float:
    return len(json.dumps(tools, separators=(",", ":"), ensure_ascii=False).encode()) / 4


def _rpc(stage: Stage, path: str, method: str, params: dict[str, object]) -> dict[str, Any]:
    answer = _answer(stage, path, method, params)
    if "result" not in answer:
        raise RuntimeError(str(answer)[:500])
    return dict(answer["result"])


def _answer(stage: Stage, path: str, method: str, params: dict[str, object]) -> dict[str, Any]:
    connection = http.client.HTTPConnection(HOST, stage.port, timeout=ANSWER_SECONDS)
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {
        "Authorization": f"Bearer {stage.token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    connection.request("POST", path, json.dumps(message), headers)
    text = connection.getresponse().read().decode()
    connection.close()
    if text.startswith(("event:", ":")):
        text = next(line[6:] for line in text.splitlines() if line.startswith("data: "))
    return dict(json.loads(text))
