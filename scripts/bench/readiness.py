"""How long a complete registry takes to be ready on data that it has."""

import time

from scripts.bench.plan import Plan
from scripts.bench.process import free_port
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage, serving


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Start a second registry again and again."""
    seconds: list[float] = []
    home, port = stage.folder / "again", free_port()
    for number in range(plan.rounds + 1):
        began_at = time.monotonic()
        with serving(home, port):
            if number:
                seconds.append(time.monotonic() - began_at)
    report.section("registry serve --local on an existing data folder")
    report.row("`registry serve --local` is ready after", seconds, "s", Bar(4))
