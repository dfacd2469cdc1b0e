"""What stays in memory of servers that describe as much as is taken of one, once they are gone.

Some list as many tools as are taken, some tools whose enumerations are as large as is taken. They
are registered, listed once by a client, and deleted.
"""

import json
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.bench.plan import Plan
from scripts.bench.process import resident_mib
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

LISTINGS = {
    "servers with 10,000 tools": "/tools/10000/many-{}",
    "servers with 16 tools of the largest enumerations": "/enumerations/16/large-{}",
}
SERVERS = 3
SERVERS_LONG = 10
TIMEOUT_SECONDS = 300.0
QUIET_SECONDS = 20.0
SAMPLE_SECONDS = 0.25


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Register, list and delete, and see what is left of it."""
    servers = SERVERS_LONG if plan.is_long else SERVERS
    for name, path in LISTINGS.items():
        report.section(f"{servers} {name} are registered, listed and deleted")
        before = _rested_mib(stage)
        ids = [_register(stage, path.format(number)) for number in range(servers)]
        for server in ids:
            _list(stage, server["path"])
        registered = _rested_mib(stage)
        for server in ids:
            _ask(stage, "DELETE", f"/api/v1/servers/{server['id']}")
        after = _rested_mib(stage)
        report.fact(f"resident before: {before:.1f} MiB")
        report.fact(f"most since the start: {_most_mib(stage):.1f} MiB")
        report.fact(f"growth while they are there: {registered - before:+.1f} MiB")
        report.row(f"growth after {servers} {name}", [after - before], "MiB", Bar(60))


def _register(stage: Stage, path: str) -> dict[str, Any]:
    url = f"http://{HOST}:{stage.upstream_port}{path}"
    body = {"serverName": path.rpartition("/")[2], "url": url}
    server: dict[str, Any] = _ask(stage, "POST", "/api/v1/servers", body)
    if server["status"] != "active":
        raise RuntimeError(server["errorMessage"])
    return server


def _list(stage: Stage, path: str) -> None:
    _ask(stage, "POST", path, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})


def _rested_mib(stage: Stage) -> float:
    """Return what is resident once that is the same for a while."""
    least = resident_mib(stage.pid)
    since = time.monotonic()
    began_at = since
    while (
        time.monotonic() - since < QUIET_SECONDS and time.monotonic() - began_at < TIMEOUT_SECONDS
    ):
        time.sleep(SAMPLE_SECONDS)
        now = resident_mib(stage.pid)
        if abs(now - least) > 1:
            least, since = now, time.monotonic()
    return least


def _most_mib(stage: Stage) -> float:
    for line in Path(f"/proc/{stage.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise KeyError("VmHWM")


def _ask(stage: Stage, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
    request = urllib.request.Request(
        f"http://{HOST}:{stage.port}{path}",
        None if body is None else json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {stage.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        },
        method=method,
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - ours
        text = answer.read()
    return json.loads(text) if text else None
