"""FastMCP's `from_openapi` beside this registry, on the same descriptions and the same upstream.

It is measured where it is installed: `--fastmcp` names the interpreter of an environment of
its own. Requests are judged by `openapi-core` against the descriptions, as those of the registry
are in `make real-descriptions`.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from scripts.bench.calls import BUSY
from scripts.bench.load import Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds, free_port
from scripts.bench.report import Report
from scripts.bench.stage import HOST, Stage

OPTION = "--fastmcp"
PROGRAM = Path(__file__).with_name("fastmcp_side.py")
START_SECONDS = 60.0


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Convert real descriptions, have requests judged, and load one operation, on both sides."""
    python = plan.fastmcp
    report.section("FastMCP's from_openapi beside the registry")
    if python is None or not Path(python).exists():
        report.fact(f"FastMCP is not installed: {OPTION} names no interpreter that has it")
        return
    version = subprocess.run(
        [python, PROGRAM, "version"], capture_output=True, text=True, check=False
    )
    if version.returncode:
        report.fact(f"FastMCP is not installed where {OPTION} says")
        return
    report.fact(f"FastMCP {version.stdout.strip()}")
    _compared(report, python)
    _loaded(report, stage, plan, python)


def _compared(report: Report, python: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rest.real.beside", python, PROGRAM],
        cwd=PROGRAM.parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    total = found["operations"]
    for name, counts in found["sides"].items():
        report.row(f"{name}: operations that became tools", [100 * counts["tools"] / total], "%")
        share = 100 * counts["accepted"] / max(1, counts["tried"])
        report.row(f"{name}: tools whose requests were accepted", [share], "%")
        report.row(f"{name}: CPU of the conversion of all", [counts["cpu"]], "s")
        told = "; ".join(f"{count}: {why}" for why, count in counts["reasons"])
        sums = f"{counts['accepted']} of {counts['tried']} accepted"
        report.fact(f"{name}: {sums}; not: {told or '-'}")
    report.fact(f"{total:,} operations; FastMCP read none of: {found['unread']}")


def _loaded(report: Report, stage: Stage, plan: Plan, python: str) -> None:
    origin = f"http://{HOST}:{stage.upstream_port}"
    description = f"{origin}/rest/0/openapi.json"
    stage.ask("apis?strict=true", {"name": "beside", "url": description, "base_url": origin})
    port = free_port()
    process = subprocess.Popen(
        [python, PROGRAM, "serve", str(port), description], stderr=subprocess.DEVNULL
    )
    try:
        targets = {
            "registry": (stage.gateway("/mcp/beside", is_json=True), stage.pid),
            "FastMCP": (Target(HOST, port, "/mcp", is_json=True), process.pid),
        }
        spent: dict[str, list[float]] = {name: [] for name in targets}
        medians: dict[str, list[float]] = {name: [] for name in targets}
        errors = 0
        for target, _ in targets.values():
            _await_calls(target)
        for _ in range(plan.rounds):
            for name, (target, pid) in targets.items():
                before = cpu_seconds(pid)
                result = asyncio.run(run(target, BUSY, plan.seconds))
                cpu = cpu_seconds(pid) - before
                spent[name].append(cpu / requests_of(result, BUSY) * 1000)
                medians[name].append(result.median_ms)
                errors += result.errors
        for name in targets:
            report.row(f"{name}: CPU of a call of an operation", spent[name], "ms")
            report.row(f"{name}: median time of it, {BUSY} at once", medians[name], "ms")
        report.errors(errors)
    finally:
        process.kill()
        process.wait()


def _await_calls(target: Target) -> None:
    """Wait until a side answers calls."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            result = asyncio.run(run(target, 1, 0.01))
        except (OSError, RuntimeError, ExceptionGroup):
            result = None
        if result is not None and not result.errors:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{target.path} at {target.port} answers no calls")
        time.sleep(0.2)
