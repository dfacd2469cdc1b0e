"""What a second worker brings: throughput, and how evenly the work is spread."""

import asyncio
from collections.abc import Sequence

from scripts.bench.load import Result, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Report
from scripts.bench.stage import Stage, staged

CONNECTIONS = 64
WORKERS = 2


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Load one worker and two in turn; *stage* has the one."""
    ratios: list[float] = []
    single: list[float] = []
    double: list[float] = []
    shares: list[float] = []
    errors = 0
    with staged("--workers", str(WORKERS)) as other:
        pids = other.workers()
        if len(pids) != WORKERS:
            raise RuntimeError(f"{len(pids)} workers instead of {WORKERS}")
        for _ in range(plan.rounds):
            alone, spent_alone = _loaded(stage, [stage.pid], plan.seconds)
            both, spent = _loaded(other, pids, plan.seconds)
            ratios.append(both.rate / alone.rate)
            single.append(sum(spent_alone) / requests_of(alone, CONNECTIONS) * 1000)
            double.append(sum(spent) / requests_of(both, CONNECTIONS) * 1000)
            shares.append(min(spent) / sum(spent))
            errors += alone.errors + both.errors
    report.section(f"{WORKERS} workers and one, concurrency {CONNECTIONS}")
    report.row("CPU of a call, one worker", single, "ms")
    report.row(f"CPU of a call, {WORKERS} workers together", double, "ms")
    report.row("part of that CPU in the worker with less", shares)
    report.row(f"throughput of {WORKERS} workers / one", ratios)
    report.fact("load and upstream run on the same processors, and limit that ratio")
    report.errors(errors)


def _loaded(stage: Stage, pids: Sequence[int], seconds: float) -> tuple[Result, list[float]]:
    before = [cpu_seconds(pid) for pid in pids]
    result = asyncio.run(run(stage.one(), CONNECTIONS, seconds))
    return result, [cpu_seconds(pid) - spent for pid, spent in zip(pids, before, strict=True)]
