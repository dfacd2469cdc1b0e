"""Run the benchmark: `python -m scripts.bench [--seconds S] [--rounds N]`.

Everything is measured in one run on one machine, targets in turn within each round, and quoted
as the median of the rounds with the least and the greatest value.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bson import ObjectId
from pymongo import MongoClient

from registry.local.home import LocalHome
from scripts.bench import access, isolation
from scripts.bench.load import Result, Target, run
from scripts.bench.memory import fill, measure
from scripts.bench.process import (
    cpu_seconds,
    free_port,
    resident_mib,
    running,
)

HOST = "127.0.0.1"
SERVERS = 1000
PAGE_QUERIES = 150
IDLE_SECONDS = 5.0
SETTLE_SECONDS = 20.0
MEMORY_CALLS = (10_000, 50_000)


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry with the benchmark's upstream registered."""

    process: "subprocess.Popen[bytes]"
    home: Path
    port: int
    token: str


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port = stack.enter_context(_upstream())
        registry = stack.enter_context(_registry(folder))
        _register(registry, upstream_port)
        targets = {"direct": Target(HOST, upstream_port, "/mcp")}
        nginx_port = stack.enter_context(_nginx(folder, upstream_port))
        if nginx_port is not None:
            targets["nginx"] = Target(HOST, nginx_port, "/mcp")
        targets["gateway"] = Target(HOST, registry.port, "/mcp/bench", registry.token)
        _calls(targets, registry, options.seconds, options.rounds)
        _isolation(targets["gateway"], options.seconds, options.rounds)
        if not options.skip_memory:
            _memory(targets["gateway"], registry)
        _pages(registry, options.rounds)
        _access(registry, options.rounds)
        if not options.skip_memory:
            _fleet(registry)
    with tempfile.TemporaryDirectory() as again:
        _readiness(Path(again), options.rounds)


def _calls(targets: dict[str, Target], registry: Registry, seconds: float, rounds: int) -> None:
    singles: dict[str, list[float]] = {name: [] for name in targets}
    rates: dict[str, list[float]] = {name: [] for name in targets}
    cpu: list[float] = []
    errors = 0
    for _ in range(rounds):
        for name, target in targets.items():
            single = asyncio.run(run(target, 1, seconds))
            before = cpu_seconds(registry.process.pid)
            many = asyncio.run(run(target, 16, seconds))
            if name == "gateway":
                spent = cpu_seconds(registry.process.pid) - before
                cpu.append(spent / _all_calls(many, 16) * 1000)
            singles[name].append(single.median_ms)
            rates[name].append(many.rate)
            errors += single.errors + many.errors
    print("tools/call echo, one worker, authentication on")
    for name in targets:
        _row(f"p50 at concurrency 1, {name}", singles[name], "ms")
    added = [
        ours - direct for ours, direct in zip(singles["gateway"], singles["direct"], strict=True)
    ]
    _row("added p50 at concurrency 1 (at most 0.6)", added, "ms")
    _row("CPU per call in the gateway process (at most 0.35)", cpu, "ms")
    for name in targets:
        _row(f"throughput at concurrency 16, {name}", rates[name], "calls/s")
    for name in targets:
        if name != "direct":
            pairs = zip(rates[name], rates["direct"], strict=True)
            bound = " (at least 0.25)" if name == "gateway" else ""
            _row(f"throughput {name} / direct{bound}", [a / b for a, b in pairs], "")
    print(f"  errors: {errors}")


def _isolation(target: Target, seconds: float, rounds: int) -> None:
    pairs = isolation.measure(target, seconds, rounds)
    print(f"one server hangs, {isolation.CALLERS} callers each")
    _row("p99 of another server's calls, alone", [pair.alone_ms for pair in pairs], "ms")
    _row("the same while it hangs", [pair.while_hanging_ms for pair in pairs], "ms")
    _row("ratio (at most 1.2)", [pair.ratio for pair in pairs], "")
    print(f"  errors: {sum(pair.errors for pair in pairs)}")


def _all_calls(result: Result, connections: int) -> int:
    # The CPU of handshake and warm-up falls into the interval too, so its calls count as well.
    return result.calls + connections * 22


def _memory(target: Target, registry: Registry) -> None:
    print("resident memory of the registry process")
    first, more = MEMORY_CALLS
    _make_calls(target, first)
    before = resident_mib(registry.process.pid)
    _make_calls(target, more)
    after = resident_mib(registry.process.pid)
    print(f"  after {first} calls (at most 160): {before:.1f} MiB")
    print(f"  growth over {more} more: {after - before:+.1f} MiB")


def _fleet(registry: Registry) -> None:
    print("resident memory with 1,000 servers and 50,000 tools, in a process of its own")
    fill(LocalHome(registry.home).mongo_uri_file.read_text().strip())
    found = measure({"REGISTRY_HOME": str(registry.home)})
    print(f"  nothing loaded: {found.bare:.0f} MiB")
    print(f"  loaded (at most 400, aim 250): {found.loaded:.0f} MiB")
    print(f"  at most, with everything read again: {found.at_most:.0f} MiB")


def _make_calls(target: Target, calls: int) -> None:
    made = 0
    while made < calls:
        made += asyncio.run(run(target, 16, 2.0)).calls


def _pages(registry: Registry, rounds: int) -> None:
    uri = (registry.home / "mongo.uri").read_text()
    with MongoClient[dict[str, object]](uri, tz_aware=True) as client:
        servers = client.get_default_database()["mcpservers"]
        author = servers.find_one({})
        assert author is not None  # noqa: S101 - the benchmark's own registration
        servers.insert_many(_documents(author["author"]))
        time.sleep(2)
        ours: list[float] = []
        bare: list[float] = []
        page = Target(
            HOST, registry.port, "/api/v1/servers?per_page=20&page=3", registry.token, "GET"
        )
        # The embedded database takes its time, in which the process does other things too: it
        # follows changes, and watches connections. That is no request's cost.
        idle = _idle_cpu(registry.process.pid)
        for _ in range(rounds):
            began_at, before = time.monotonic(), cpu_seconds(registry.process.pid)
            result = asyncio.run(run(page, 1, 3.0))
            spent = cpu_seconds(registry.process.pid) - before
            spent -= idle * (time.monotonic() - began_at)
            ours.append(spent / (result.calls + 20) * 1000)
            bare.append(_bare_query_cpu(uri))
    print(f"GET /servers, page of 20 out of {SERVERS}")
    print(f"  CPU of the idle process, not counted below: {idle * 1000:.1f} ms/s")
    _row("CPU per request", ours, "ms")
    _row("CPU of the same query through the bare driver", bare, "ms")
    _row("ratio (at most 2)", [a / b for a, b in zip(ours, bare, strict=True)], "")


def _access(registry: Registry, rounds: int) -> None:
    uri = (registry.home / "mongo.uri").read_text()
    user_id = access.fill(uri)
    token = access.user_token(access.signing_keys(registry.home), user_id)
    # The registry follows what was written meanwhile.
    time.sleep(SETTLE_SECONDS)
    decisions: list[float] = []
    verifications: list[float] = []
    ours: list[float] = []
    bare: list[float] = []
    total = 0
    for _ in range(rounds):
        decisions.append(access.decision_microseconds())
        verifications.append(access.verification_microseconds(registry.home))
        spent, total = access.list_milliseconds(HOST, registry.port, token)
        ours.append(spent)
        bare.append(access.bare_milliseconds(uri))
    print("access")
    _row(f"decision with {access.GRANTS} grants (at most 20)", decisions, "us")
    _row("remembered token (at most 15)", verifications, "us")
    print(f"GET /servers, 20 of {total} out of {access.SERVERS}, a user in {access.GROUPS} groups")
    _row("time", ours, "ms")
    _row("time of an administrator's query through the bare driver", bare, "ms")
    _row("ratio (at most 3)", [a / b for a, b in zip(ours, bare, strict=True)], "")


def _idle_cpu(pid: int) -> float:
    """Return the CPU seconds that a process spends in a second without requests."""
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - before) / IDLE_SECONDS


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


def _bare_query_cpu(uri: str) -> float:
    command = [sys.executable, "-c", BARE_QUERY, uri, str(PAGE_QUERIES)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _documents(author: object) -> list[dict[str, object]]:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - only here

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


def _readiness(folder: Path, rounds: int) -> None:
    seconds: list[float] = []
    port = free_port()
    for number in range(rounds + 1):
        began_at = time.monotonic()
        with _serving(folder, port):
            if number:
                seconds.append(time.monotonic() - began_at)
    print("registry serve --local on an existing data folder")
    _row("ready after (at most 4)", seconds, "s")


@contextmanager
def _registry(folder: Path) -> Iterator[Registry]:
    port = free_port()
    home = folder / "home"
    with _serving(home, port) as process:
        yield Registry(process, home, port, (home / "admin.token").read_text().strip())


@contextmanager
def _serving(home: Path, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    command = [str(Path(sys.executable).with_name("registry")), "serve", "--local"]
    environment = {"REGISTRY_HOME": str(home), "REGISTRY_PORT": str(port)}
    with running(command, f"http://{HOST}:{port}/health/ready", environment) as process:
        yield process


@contextmanager
def _upstream() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "scripts.bench.upstream", str(port)]
    with running(command, f"http://{HOST}:{port}/"):
        yield port


@contextmanager
def _nginx(folder: Path, upstream_port: int) -> Iterator[int | None]:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        yield None
        return
    port = free_port()
    root = folder / "nginx"
    root.mkdir()
    (root / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\n"
        "events { worker_connections 256; }\n"
        "http { access_log off; keepalive_requests 100000000; "
        f"client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; "
        f"fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n"
        f"upstream mcp {{ server {HOST}:{upstream_port}; "
        "keepalive 64; keepalive_requests 100000000; }\n"
        f"server {{ listen {HOST}:{port}; location / {{ proxy_pass http://mcp; "
        'proxy_http_version 1.1; proxy_set_header Connection ""; } } }\n'
    )
    with running([binary, "-c", str(root / "nginx.conf")], f"http://{HOST}:{port}/"):
        yield port


def _register(registry: Registry, upstream_port: int) -> None:
    body = {"serverName": "bench", "url": f"http://{HOST}:{upstream_port}/mcp"}
    request = urllib.request.Request(
        f"http://{HOST}:{registry.port}/api/v1/servers",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {registry.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        server = json.load(answer)
    if server["status"] != "active":
        raise RuntimeError(server["errorMessage"])


def _row(label: str, values: list[float], unit: str) -> None:
    middle = statistics.median(values)
    print(f"  {label}: {middle:.3f} [{min(values):.3f} .. {max(values):.3f}] {unit}".rstrip())


if __name__ == "__main__":
    main()
