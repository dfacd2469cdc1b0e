"""Memory that remains after many calls, and after many sessions that are never terminated.

Sessions are dropped as clients drop them: the connection closes without a request. Half
belong to the combined server, where each has also set a log level and opened its stream.
"""

import asyncio

from scripts.bench.load import run
from scripts.bench.plan import Plan
from scripts.bench.process import resident_mib
from scripts.bench.report import Bar, Report
from scripts.bench.sessions import drop_sessions
from scripts.bench.stage import Stage

CALLS, SESSIONS = 200_000, 20_000
SHORTENED = 10
"""How much less is done where it is not wanted in full."""

WARM_UP_CALLS = 20_000
WARM_UP_SESSIONS = 2_000
CONNECTIONS = 16
SLICE_SECONDS = 2.0


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Call, open sessions, and see what is left of it."""
    calls, sessions = CALLS, SESSIONS
    if not plan.is_long:
        calls, sessions = calls // SHORTENED, sessions // SHORTENED
    errors = _make_calls(stage, WARM_UP_CALLS) + drop_sessions(stage, WARM_UP_SESSIONS)
    stage.await_records()
    before = resident_mib(stage.pid)
    errors += _make_calls(stage, calls)
    stage.await_records()
    called = resident_mib(stage.pid)
    errors += drop_sessions(stage, sessions)
    stage.await_records()
    after = resident_mib(stage.pid)
    report.section(f"{calls:,} calls, then {sessions:,} sessions opened and dropped")
    report.fact(f"resident before: {before:.1f} MiB")
    report.fact(f"growth over the calls: {called - before:+.1f} MiB")
    report.fact(f"growth over the sessions: {after - called:+.1f} MiB")
    label = f"growth after {calls:,} calls and {sessions:,} sessions"
    report.row(label, [after - before], "MiB", Bar(5, 0))
    report.errors(errors)


def _make_calls(stage: Stage, calls: int) -> int:
    """Call on both paths, in both eras, in turn; return how many failed."""
    made = errors = 0
    targets = [
        target(is_modern=is_modern)
        for is_modern in (False, True)
        for target in (stage.one, stage.combined)
    ]
    while made < calls:
        for target in targets:
            result = asyncio.run(run(target, CONNECTIONS, SLICE_SECONDS))
            made += result.calls
            errors += result.errors
    return errors
