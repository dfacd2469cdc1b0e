"""Totals in groups: the figures are those of the calls, however they are grouped and exported."""

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from io import StringIO
from itertools import chain, combinations
from typing import Any

import httpx
import pytest
import pytest_asyncio

from registry.auth.identity import Role, Scope, UserContext
from registry.core.clock import SystemClock
from registry.core.json import JsonObject
from registry.usage.batches import BatchPacker
from registry.usage.presenter import csv_lines, ndjson_lines
from registry.usage.repository import UsageRepository
from registry.usage.totals import totals_of, writes_of
from registry.usage.values import Charge, GroupBy
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
from tests.usage.conftest import batch_of, call

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

AUDITOR = UserContext("e" * 24, "audrey", Role.ADMIN, frozenset({Scope.READ_AUDIT}))
BOB = UserContext("b" * 24, "bob", Role.USER, frozenset({Scope.READ_AUDIT}))
TEAM = Charge("high", ("team-a",), 250_000, 1_000)
SHARED = Charge(None, ("gpu", "team-a"), 10_000, 0)
ODD = {
    "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0",
    "\n=1+1": "'\n'=1+1",
    # Where a spreadsheet splits at semicolons, tabs or bars, quotes do not hold these together.
    "a;=cmd()": "a;'=cmd()",
    'a\t "=cmd()': "a\t' \"=cmd()",
    "a|@b;-c": "a|'@b;'-c",
    "\uff1dcmd()": "'\uff1dcmd()",
    'a,"b"\r\nc': 'a,"b"\r\nc',
    "-2": "'-2",
}
"""Texts that a spreadsheet, or a reader of lines, misreads; and their cells."""
GROUPINGS = [
    ",".join(some)
    for some in chain.from_iterable(combinations(GroupBy, size) for size in (1, 2, 5))
]
SUMS = ("calls", "sent", "errors", "request_bytes", "response_bytes", "cost")


async def ask(rest: Rest, user: UserContext = AUDITOR, **query: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {rest.token(user)}"}
    return await rest.client.get("/api/v1/usage", params=query, headers=headers)


async def summary(rest: Rest, user: UserContext = AUDITOR, **query: Any) -> dict[str, Any]:
    answer = await ask(rest, user, **query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest_asyncio.fixture(loop_scope="module")
async def recorded(rest: Rest) -> AsyncIterator[Rest]:
    """Calls of two processes, over two days."""
    repository, clock = UsageRepository(rest.parts.database), SystemClock()
    packer = BatchPacker(worker="host:1", retention=timedelta(days=30))
    monotonic = clock.monotonic()
    calls = [
        call(charge=TEAM, tool="render", request_bytes=1_000, response_bytes=24),
        call(charge=TEAM, tool="render", outcome="timeout"),
        call(charge=SHARED, tool="=cmd()", user_id=BOB.user_id, username="bob"),
        call(charge=None, server_id="c" * 24, tool="render", user_id=BOB.user_id, username="bob"),
        call(
            tool="wipe",
            outcome="awaiting_approval",
            decided_at=0.0,
            request_bytes=0,
            response_bytes=0,
        ),
        call(method="prompts/get", tool=None, target="greeting"),
        call(tool=None, outcome="refused", decided_at=0.0, server_id=None, slug="unknown"),
    ]
    for number, age in enumerate((timedelta(), timedelta(days=1), timedelta())):
        batch, now = batch_of(*calls), clock.now() - age
        writes = writes_of(totals_of(batch, now, monotonic), f"w{number}", timedelta(days=400))
        assert await repository.insert(packer.document(batch, now, monotonic), writes)
    yield rest


@pytest.mark.requirement("E-19")
async def test_the_sums_are_the_same_however_calls_are_grouped(recorded: Rest) -> None:
    answers = await asyncio.gather(*(summary(recorded, group_by=one) for one in GROUPINGS))

    whole = answers[0]["total"]
    assert {name: whole[name] for name in SUMS} == {
        "calls": 21,
        "sent": 15,
        "errors": 6,
        "request_bytes": 3 * (1_000 + 5 * 120),
        "response_bytes": 3 * (24 + 5 * 400),
        "cost": 1.534524,
    }
    assert whole["outcomes"] == {"awaiting_approval": 3, "ok": 12, "refused": 3, "timeout": 3}
    assert all(answer["total"] == whole for answer in answers)
    assert [
        {name: pytest.approx(sum(group[name] for group in answer["groups"])) for name in SUMS}
        for answer in answers
    ] == [{name: whole[name] for name in SUMS}] * len(answers)


@pytest.mark.requirement("E-19")
async def test_totals_that_are_read_while_others_write_are_of_one_moment(rest: Rest) -> None:
    repository, clock = UsageRepository(rest.parts.database), SystemClock()
    packer = BatchPacker(worker="host:1", retention=timedelta(days=30))
    batch = batch_of(call(), call(user_id=BOB.user_id), call(server_id="c" * 24, tool="t2"))

    async def write() -> None:
        for _ in range(40):
            now, monotonic = clock.now(), clock.monotonic()
            writes = writes_of(totals_of(batch, now, monotonic), "w1", timedelta(days=400))
            assert await repository.insert(packer.document(batch, now, monotonic), writes)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        answers = [await summary(rest, group_by="caller,tool") for _ in range(12)]

    seen = [{one["calls"] for one in answer["groups"]} for answer in answers]
    assert all(len(counts) <= 1 for counts in seen)
    assert (await summary(rest, group_by="day"))["total"]["calls"] == 120


async def test_groups_say_what_they_are_of(recorded: Rest) -> None:
    by_tool = (await summary(recorded, group_by="tool"))["groups"]
    by_tag = (await summary(recorded, group_by="tag", tag="team-a"))["groups"]
    by_caller = (await summary(recorded, group_by="caller,day"))["groups"]

    named = {(group["server_id"], group["tool"]): group["calls"] for group in by_tool}
    assert named[("d" * 24, "render")] == 6
    assert named[("c" * 24, "render")] == 3
    assert sorted(group["billing_tags"] for group in by_tag) == [["gpu", "team-a"], ["team-a"]]
    assert len(by_caller) == 4
    assert [group["calls"] for group in by_caller if group["username"] == "bob"] == [2, 4]
    assert by_tool[0]["p50_ms"] == pytest.approx(3, rel=0.04)


async def test_callers_see_the_totals_of_what_they_see_the_calls_of(recorded: Rest) -> None:
    own = await summary(recorded, BOB, group_by="caller")

    assert [(group["username"], group["calls"]) for group in own["groups"]] == [("bob", 6)]
    assert own["total"]["calls"] == 6


async def test_exports_have_the_same_rows_and_no_formulas(recorded: Rest) -> None:
    groups = (await summary(recorded, group_by="tool"))["groups"]

    table = await ask(recorded, group_by="tool", format="csv")
    lines = await ask(recorded, group_by="tool", format="ndjson")
    calls = await ask(recorded, format="csv")

    rows = list(csv.DictReader(StringIO(table.text)))
    assert table.headers["content-type"].startswith("text/csv")
    assert [json.loads(line) for line in lines.text.splitlines()] == groups
    assert [int(row["calls"]) for row in rows] == [group["calls"] for group in groups]
    assert sum(float(row["cost"]) for row in rows) == pytest.approx(1.534524)
    assert [row["tool"] for row in rows if "cmd" in row["tool"]] == ["'=cmd()"]
    assert len(list(csv.DictReader(StringIO(calls.text)))) == 21
    assert (await ask(recorded, format="csv", outcome="none")).text == ""


@pytest.mark.parametrize(
    "query",
    [
        {"group_by": "moon"},
        {"group_by": "caller,"},
        {"group_by": ""},
        {"group_by": "day", "since": "2026-01-01T00:30:00Z"},
        {"group_by": "day", "trace_id": "a" * 32},
        {"group_by": "day", "cursor": "x"},
        {"format": "xml"},
        {"format": "csv", "limit": 5},
    ],
)
async def test_groupings_that_make_no_sense_are_refused(rest: Rest, query: dict[str, Any]) -> None:
    answer = await ask(rest, **query)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


@pytest.mark.requirement("R-237")
async def test_a_call_costs_what_its_tools_metadata_says(
    rest: Rest, alice: UserContext, upstream: PlainUpstream
) -> None:
    server = await rest.register(alice, "sums", upstream.url)
    (tool,) = (await rest.ask(alice, "GET", "/registry/tools")).json()["tools"]
    said = {"price_per_call": 0.5, "price_per_kib": 0.001, "billing_tags": ["team-a"]}
    changed = await rest.ask(
        alice, "PATCH", f"/registry/tools/{tool['id']}", json={"tool_metadata": said}
    )
    assert changed.status_code == 200, changed.text
    headers = {
        "Authorization": f"Bearer {rest.token(alice)}",
        "Accept": "application/json, text/event-stream",
    }
    for path, name in (("/mcp/sums", tool["name"]), ("/mcp", f"sums__{tool['name']}")):
        params = {"name": name, "arguments": {"text": "x"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        await rest.client.post(path, json=message, headers=headers)

    async with asyncio.timeout(30):
        while (found := await summary(rest, group_by="tool,tag"))["total"]["calls"] < 2:
            await SystemClock().sleep(0.05)

    (group,) = found["groups"]
    size = group["request_bytes"] + group["response_bytes"]
    assert (group["server_id"], group["billing_tags"]) == (server["id"], ["team-a"])
    assert group["cost"] == pytest.approx(1.0 + 0.001 * size / 1024, abs=2e-6)
    records = (await ask(rest, tag="team-a")).json()["records"]
    assert sum(record["cost"] for record in records) == pytest.approx(group["cost"])


async def test_exported_texts_are_one_cell_and_no_formula() -> None:
    rows: list[JsonObject] = [
        {"tool": text, "tags": ["gpu", text], "outcomes": {text: 1}, "cost": -1.5} for text in ODD
    ]

    table = list(csv.DictReader(StringIO(csv_lines(rows, has_header=True).decode(), newline="")))

    assert table == [
        {"tool": cell, "tags": f"gpu;{cell}", "cost": "-1.5"} for cell in ODD.values()
    ]
    assert [json.loads(line) for line in ndjson_lines(rows).splitlines()] == rows
