"""What a call costs, and how many of them there can be, with everything on that is on by default.

Before the upstream stand the gateway's two paths, each with clients of both eras, and nginx.
"""

import asyncio
from collections import defaultdict

from scripts.bench.load import Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage, nginx

BUSY = 16
"""Connections while CPU is measured: the number that other gateways' figures are quoted for."""

MANY = 64
WRITTEN, DROPPED = "usage_records_written_total", "usage_records_dropped_total"
DIRECT, NGINX = "direct", "nginx"
ONE, ALL = "/mcp/<server>", "/mcp"
GATEWAY = {ONE: Bar(0.30, 0.20), ALL: Bar(0.40, 0.25)}
ERAS = {"": False, ", stateless era": True}


class Figures:
    """Values of each target, one for each round."""

    def __init__(self) -> None:
        self.single = defaultdict[str, list[float]](list)
        self.cpu = defaultdict[str, list[float]](list)
        self.rates = defaultdict[str, list[float]](list)
        self.errors = 0

    def added(self, name: str) -> list[float]:
        """Return the milliseconds that stand between *name* and the upstream."""
        pairs = zip(self.single[name], self.single[DIRECT], strict=True)
        return [ours - direct for ours, direct in pairs]

    def share(self, name: str) -> list[float]:
        """Return the throughput of *name* as a part of the upstream's."""
        pairs = zip(self.rates[name], self.rates[DIRECT], strict=True)
        return [ours / direct for ours, direct in pairs]


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Measure calls: one at a time, some at once, and many at once."""
    targets = {DIRECT: Target(HOST, stage.upstream_port, "/mcp")}
    pids = {DIRECT: stage.upstream_pid}
    with nginx(stage) as proxy:
        if proxy is not None:
            port, pids[NGINX] = proxy
            targets[NGINX] = Target(HOST, port, "/mcp")
        for era, is_modern in ERAS.items():
            targets[ONE + era] = stage.one(is_modern=is_modern)
            targets[ALL + era] = stage.combined(is_modern=is_modern)
        figures = Figures()
        database = stage.database()
        written, spent = stage.metric(WRITTEN), cpu_seconds(database)
        for _ in range(plan.rounds):
            for name, target in targets.items():
                _round(figures, pids.get(name, stage.pid), name, target, plan.seconds)
    stage.await_records()
    written, spent = stage.metric(WRITTEN) - written, cpu_seconds(database) - spent
    report.section("tools/call echo, one worker: JWT, policy, metrics and records on")
    _report_cost(report, figures)
    _report_latency(report, figures)
    _report_throughput(report, figures)
    report.errors(figures.errors)
    report.fact(f"usage records: {written:.0f} written, {stage.metric(DROPPED):.0f} dropped")
    report.fact(f"CPU of each in the embedded database: {spent / written * 1000:.3f} ms")


def _round(figures: Figures, pid: int, name: str, target: Target, seconds: float) -> None:
    single = asyncio.run(run(target, 1, seconds))
    figures.single[name].append(single.median_ms)
    many = asyncio.run(run(target, MANY, seconds))
    figures.rates[name].append(many.rate)
    figures.errors += single.errors + many.errors
    before = cpu_seconds(pid)
    busy = asyncio.run(run(target, BUSY, seconds))
    spent = cpu_seconds(pid) - before
    figures.cpu[name].append(spent / requests_of(busy, BUSY) * 1000)
    figures.errors += busy.errors


def _report_cost(report: Report, figures: Figures) -> None:
    for path, bar in GATEWAY.items():
        for era in ERAS:
            report.row(f"CPU of a call on `{path}`{era}", figures.cpu[path + era], "ms", bar)
    report.row("CPU of a call in the upstream itself, direct", figures.cpu[DIRECT], "ms")
    if NGINX not in figures.cpu:
        return
    report.row("CPU of a call in nginx", figures.cpu[NGINX], "ms")
    for path in GATEWAY:
        pairs = zip(figures.cpu[path], figures.cpu[NGINX], strict=True)
        report.row(f"CPU of a call on `{path}` / in nginx", [ours / its for ours, its in pairs])


def _report_latency(report: Report, figures: Figures) -> None:
    for name, values in figures.single.items():
        report.row(f"p50 at concurrency 1, {name}", values, "ms")
    for name in figures.single:
        if name != DIRECT:
            bar = Bar(0.5, 0.3) if name != NGINX else None
            report.row(f"p50 that `{name}` adds at concurrency 1", figures.added(name), "ms", bar)


def _report_throughput(report: Report, figures: Figures) -> None:
    for name, values in figures.rates.items():
        report.row(f"throughput at concurrency {MANY}, {name}", values, "calls/s")
    for name in figures.rates:
        if name != DIRECT:
            bar = Bar(0.25, 0.35, is_least=True) if name.startswith(ONE) else None
            label = f"throughput of `{name}` / direct at concurrency {MANY}"
            report.row(label, figures.share(name), bar=bar)
