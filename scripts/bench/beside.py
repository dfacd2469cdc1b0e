"""FastMCP's `from_openapi` beside this registry, on the same descriptions and the same upstream.

It is measured where it is installed: `--fastmcp` names the interpreter of an environment of
its own. Requests are judged by `openapi-core` against the descriptions, as those of the registry
are in `make real-descriptions`.
"""

import asyncio
import base64
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from scripts.bench.calls import BUSY
from scripts.bench.load import Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds, free_port
from scripts.bench.report import Report
from scripts.bench.stage import HOST, Stage

OPTION = "--fastmcp"
PROGRAM = Path(__file__).with_name("fastmcp_side.py")
SAMPLE = 20
"""Tools of each description that are called, twice each."""

START_SECONDS = 60.0
SEED = 7


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
    with _lines(python) as side:
        _compared(report, side)
    _loaded(report, stage, plan, python)


@dataclass(slots=True)
class _Counts:
    """What came of one side."""

    tools: int = 0
    tried: int = 0
    accepted: int = 0
    cpu: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Side:
    """The other program."""

    sends: IO[str]
    answers: IO[str]

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Return the answer to one line."""
        self.sends.write(json.dumps(asked) + "\n")
        self.sends.flush()
        return dict(json.loads(self.answers.readline()))


@contextmanager
def _lines(python: str) -> Iterator[_Side]:
    process = subprocess.Popen(
        [python, PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101 - both are pipes
        yield _Side(process.stdin, process.stdout)
    finally:
        process.kill()
        process.wait()


def _compared(report: Report, side: _Side) -> None:
    from registry.openapi.description import describe  # noqa: PLC0415 - not for other sections
    from registry.openapi.documents import load  # noqa: PLC0415
    from registry.openapi.tools import Selection, tools_of  # noqa: PLC0415
    from tests.rest.real.fetched import REAL, fetched  # noqa: PLC0415
    from tests.rest.real.measured import loaded, operations  # noqa: PLC0415

    files = fetched()
    ours, theirs, total = _Counts(), _Counts(), 0
    unread: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for one in REAL:
            twin = files.get(f"{one.name} (twin)")
            found = loaded(files[one.name], twin)
            total += operations(found.document)
            file = Path(folder) / "description.json"
            file.write_text(json.dumps(found.document, default=str))
            began_at = time.process_time()
            tools = tools_of(
                describe(load(file.read_bytes()), url=None, files={}), Selection()
            ).tools
            ours.cpu += time.process_time() - began_at
            ours.tools += len(tools)
            converted = side.ask(document=str(file))
            if "error" in converted:
                unread.append(f"{one.name} ({converted['error'][:60]})")
            theirs.cpu += converted.get("cpu", 0.0)
            theirs.tools += len(converted.get("tools", ()))
            sample = random.Random(SEED).sample([*tools], min(SAMPLE, len(tools)))  # noqa: S311
            _judged(found, sample, side, converted.get("tools", []), ours, theirs)
    for name, counts in (("registry", ours), ("FastMCP", theirs)):
        report.row(f"{name}: operations that became tools", [100 * counts.tools / total], "%")
        share = 100 * counts.accepted / max(1, counts.tried)
        report.row(f"{name}: tools whose requests were accepted", [share], "%")
        report.row(f"{name}: CPU of the conversion of all", [counts.cpu], "s")
        told = "; ".join(f"{count}: {why}" for why, count in counts.reasons.most_common(8))
        report.fact(f"{name}: {counts.accepted} of {counts.tried} accepted; not: {told or '-'}")
    report.fact(f"{len(files)} files, {total:,} operations; FastMCP read none of: {unread}")


def _judged(
    found: Any,
    sample: list[Any],
    side: _Side,
    converted: list[dict[str, Any]],
    ours: _Counts,
    theirs: _Counts,
) -> None:
    from registry.openapi.binding import binding_of  # noqa: PLC0415 - not for other sections
    from tests.rest.real.arguments import arguments  # noqa: PLC0415
    from tests.rest.real.measured import (  # noqa: PLC0415
        SEEDS,
        judgement,
        narrow_arguments,
        refused_request,
    )

    numbers = {(one["method"], one["path"]): place for place, one in enumerate(converted)}
    for tool in sample:
        binding = binding_of(tool.definition)
        path = found.paths[tool.external_id]
        place = None if binding is None else numbers.get((binding.method, path))
        if binding is None or place is None:
            continue
        _count(ours, judgement(found, tool)[0])
        reason: str | None = None
        for seed, is_full in SEEDS:
            try:
                schema = converted[place]["schema"]
                plain = narrow_arguments(binding)
                given = arguments(schema, seed, is_full=is_full, plain=plain)
                sent = side.ask(tool=place, arguments=given)
                if "error" in sent:
                    reason = str(sent["error"])
                    break
                refused = refused_request(
                    found,
                    tool,
                    (sent["method"], sent["target"]),
                    {name.title(): value for name, value in sent["headers"]},
                    base64.b64decode(sent["content"]),
                )
            except Exception as exc:  # noqa: BLE001 - of generator, judge or a path that is none
                refused = [f"{type(exc).__name__}"]
            if refused:
                reason = refused[0].partition(":")[0].lower()
                break
        _count(theirs, reason)


def _count(counts: _Counts, reason: str | None) -> None:
    counts.tried += 1
    if reason is None:
        counts.accepted += 1
    else:
        counts.reasons[reason[:80]] += 1


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
