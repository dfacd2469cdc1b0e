"""What `tools/list` of a thousand tools costs on the combined server."""

import asyncio
import time

from scripts.bench.load import Client, Kind, Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import SERVER, Stage
from scripts.bench.upstream import MANY, TOOLS_EACH

SERVERS = 10
CONNECTIONS = 4
KNOWN_SECONDS = 30.0


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Register ten servers of a hundred tools, and list them all together."""
    # Their tools would be the first of a second page.
    stage.switch_all_off()
    for number in range(SERVERS):
        stage.register(f"{SERVER}-{number}", stage.upstream_port, f"{MANY}{number}")
    tools = SERVERS * TOOLS_EACH
    asyncio.run(all_listed(stage.gateway("/mcp", kind=Kind.LIST, tools=tools)))
    report.section(f"tools/list of {tools} tools of {SERVERS} servers on `/mcp`")
    errors = 0
    for era, is_modern in (("", False), (", stateless era", True)):
        target = stage.gateway("/mcp", kind=Kind.LIST, tools=tools, is_modern=is_modern)
        cpu: list[float] = []
        rates: list[float] = []
        for _ in range(plan.rounds):
            before = stage.cpu_seconds()
            result = asyncio.run(run(target, CONNECTIONS, plan.seconds))
            spent = stage.cpu_seconds() - before
            cpu.append(spent / requests_of(result, CONNECTIONS) * 1000)
            rates.append(result.rate)
            errors += result.errors
        label = f"CPU of `tools/list` of {tools} tools on `/mcp`{era}"
        report.row(label, cpu, "ms", Bar(1.0, 0.4))
        report.row(f"lists at concurrency {CONNECTIONS}{era}", rates, "lists/s")
    report.errors(errors)


async def all_listed(target: Target) -> None:
    """Wait until the gateway knows of all that was registered."""
    client = Client(target)
    await client.connect()
    async with asyncio.timeout(KNOWN_SECONDS):
        while not await client.ask(""):
            await asyncio.to_thread(time.sleep, 0.1)
    client.close()
