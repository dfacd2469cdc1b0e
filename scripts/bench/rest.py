"""REST APIs as tools: reading a description, calling an operation, listing many."""

import asyncio
import time

from scripts.bench.calls import BUSY
from scripts.bench.lists import CONNECTIONS, all_listed
from scripts.bench.load import Kind, Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, SERVER, Stage
from scripts.bench.upstream import SIZED

OPERATIONS = 1_000
OPERATION_BYTES = 1_536
"""Of each operation's tool in a list, in the middle."""

API = "records"
ERAS = {"": False, ", stateless era": True}


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Register a thousand operations, call one beside a tool of an MCP server, and list them."""
    report.section(f"a REST API with {OPERATIONS:,} operations is registered")
    _registered(report, stage, plan)
    report.section("tools/call of an operation beside the same call of an MCP server's tool")
    _called(report, stage, plan)
    report.section(f"tools/list of {OPERATIONS:,} operations")
    _listed(report, stage, plan)


def _register(stage: Stage, name: str, count: int) -> str:
    origin = f"http://{HOST}:{stage.upstream_port}"
    body: dict[str, object] = {
        "name": name,
        "url": f"{origin}/rest/{count}/openapi.json",
        "base_url": origin,
    }
    api = stage.ask("apis?strict=true", body)
    if api["numTools"] != count + 1:
        raise RuntimeError(f"{api['numTools']} tools of {count + 1}: {api.get('toolProblems')}")
    return str(api["id"])


def _registered(report: Report, stage: Stage, plan: Plan) -> None:
    whole: list[float] = []
    own: list[float] = []
    for number in range(plan.rounds):
        before, began_at = cpu_seconds(stage.pid), time.monotonic()
        # Another description each time: a conversion that was made is kept.
        api_id = _register(stage, f"{API}-{number}", OPERATIONS - 1 + number)
        whole.append(time.monotonic() - began_at)
        own.append(cpu_seconds(stage.pid) - before)
        stage.remove(f"apis/{api_id}")
    label = f"{OPERATIONS:,} operations read, converted and stored"
    report.row(f"{label}: CPU of the reader's process", own, "s", Bar(2))
    report.row(f"{label}: whole", whole, "s", Bar(10))


def _called(report: Report, stage: Stage, plan: Plan) -> None:
    _register(stage, "one", 0)
    errors = 0
    for era, is_modern in ERAS.items():
        targets = {
            "a tool": stage.gateway(f"/mcp/{SERVER}", is_modern=is_modern),
            "an operation": stage.gateway("/mcp/one", is_modern=is_modern, is_json=True),
        }
        asyncio.run(_known(targets["an operation"]))
        spent: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(plan.rounds):
            for name, target in targets.items():
                before = stage.cpu_seconds()
                result = asyncio.run(run(target, BUSY, plan.seconds))
                cpu = stage.cpu_seconds() - before
                spent[name].append(cpu / requests_of(result, BUSY) * 1000)
                errors += result.errors
        for name, values in spent.items():
            report.row(f"CPU of a call of {name}{era}", values, "ms")
        pairs = zip(spent["an operation"], spent["a tool"], strict=True)
        beyond = [operation - tool for operation, tool in pairs]
        label = f"CPU of a call of an operation beyond that of a tool{era}"
        report.row(label, beyond, "ms", Bar(0.15))
    report.errors(errors)


async def _known(target: Target) -> None:
    """Wait until the gateway serves what was registered."""
    listing = Target(target.host, target.port, target.path, target.token, Kind.LIST)
    await all_listed(listing)


def _listed(report: Report, stage: Stage, plan: Plan) -> None:
    _register(stage, API, OPERATIONS - 1)
    # Of the same length, for a list costs what its text is long.
    stage.register("sized", stage.upstream_port, f"{SIZED}{OPERATIONS}/{OPERATION_BYTES}")
    targets = {
        f"`tools/list` of {OPERATIONS:,} operations": API,
        f"`tools/list` of {OPERATIONS:,} tools of an MCP server, as long": "sized",
    }
    cpu: dict[str, list[float]] = {label: [] for label in targets}
    errors = 0
    listings = {
        label: stage.gateway(f"/mcp/{name}", kind=Kind.LIST, tools=OPERATIONS)
        for label, name in targets.items()
    }
    for target in listings.values():
        asyncio.run(all_listed(target))
    for _ in range(plan.rounds):
        for label, target in listings.items():
            before = stage.cpu_seconds()
            result = asyncio.run(run(target, CONNECTIONS, plan.seconds))
            spent = stage.cpu_seconds() - before
            cpu[label].append(spent / requests_of(result, CONNECTIONS) * 1000)
            errors += result.errors
    operations, tools = cpu.values()
    for label, values in cpu.items():
        report.row(f"CPU of {label}", values, "ms", Bar(1.0, 0.4))
    ratios = [one / other for one, other in zip(operations, tools, strict=True)]
    report.row("a list of operations, times one of tools as long", ratios, "x", Bar(1.1))
    report.errors(errors)
