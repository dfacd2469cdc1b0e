"""Budgets: calls are refused once their month is spent, on every process, and reported once."""

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

BODY = {"name": "team", "amount": 10, "subjects": {"everyone": True}}


@pytest_asyncio.fixture(loop_scope="module")
async def priced(rest: Rest, root: UserContext, bob: UserContext, upstream: PlainUpstream) -> Rest:
    """A tool that costs 1 a call."""
    users = rest.parts.database.collection("users")
    await users.insert_one({"_id": ObjectId(bob.user_id), "name": "bob", "email": "b@x.example"})
    await rest.register(root, "sums", upstream.url, scope="shared_app")
    (tool,) = (await rest.ask(root, "GET", "/registry/tools")).json()["tools"]
    said = {"price_per_call": 1, "billing_tags": ["gpu"]}
    answer = await rest.ask(
        root, "PATCH", f"/registry/tools/{tool['id']}", json={"tool_metadata": said}
    )
    assert answer.status_code == 200, answer.text
    return rest


async def call(rest: Rest, user: UserContext, tool: str = "echo") -> dict[str, Any]:
    params = {"name": tool, "arguments": {"text": "x"}}
    headers = {
        "Authorization": f"Bearer {rest.token(user)}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-06-18",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await rest.client.post("/mcp/sums", json=message, headers=headers)
    return dict(answer.json())


def is_refused(answer: dict[str, Any]) -> bool:
    return "is spent" in str(answer)


async def made(rest: Rest, user: UserContext, **changes: Any) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", "/budgets", json={**BODY, **changes})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def in_force(rest: Rest, user: UserContext, *, refused: bool) -> dict[str, Any]:
    """Call until a change of budgets is in force."""
    async with asyncio.timeout(30):
        while is_refused(answer := await call(rest, user)) is not refused:
            await SystemClock().sleep(0.01)
    return answer


@pytest.mark.requirement("R-237")
async def test_a_spent_budget_refuses_whom_it_covers_until_it_is_raised(
    priced: Rest, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    budget = await made(priced, root, name="of bob", amount=0, subjects={"users": [bob.user_id]})

    before = 0
    async with asyncio.timeout(30):
        # Until the budget is in force, calls cost too.
        while not is_refused(refused := await call(priced, bob)):
            before += 1
            await SystemClock().sleep(0.05)
    others = await call(priced, alice)
    path, amount = f"/budgets/{budget['id']}", before + 5
    raised = await priced.ask(root, "PATCH", path, json={"amount": amount})
    await in_force(priced, bob, refused=False)
    await in_force(priced, bob, refused=True)
    explained = await priced.ask(
        bob, "POST", "/access/explain", json={"tool": "echo", "path": "/mcp/sums"}
    )
    spent = (await until_written(priced, root, path, amount))["spent"]
    removed = await priced.ask(root, "DELETE", path, headers={"If-Match": raised.headers["ETag"]})
    await in_force(priced, bob, refused=False)

    assert "The budget 'of bob'" in str(refused)
    assert "starts again at" in str(refused)
    assert not is_refused(others)
    assert spent == amount
    refusing = [one["step"] for one in explained.json()["reasons"] if not one["passed"]]
    assert refusing == ["budget"]
    assert removed.status_code == 204
    assert len((await priced.ask(root, "GET", "/audit?entity_type=budget")).json()["records"]) >= 3


async def test_a_budget_counts_what_was_spent_before_and_is_reported_once(
    priced: Rest, root: UserContext, alice: UserContext
) -> None:
    for _ in range(4):
        await call(priced, alice)
    async with asyncio.timeout(30):
        while (await usage(priced, root))["cost"] < 4:
            await SystemClock().sleep(0.05)

    budget = await made(priced, root, amount=20, billing_tags=["gpu"])
    answer = await in_force(priced, alice, refused=True)

    async with asyncio.timeout(30):
        while not (notices := await reported(priced, root)):
            await SystemClock().sleep(0.05)
    renamed = await priced.ask(root, "PATCH", f"/budgets/{budget['id']}", json={"name": "crew"})
    kept = await priced.parts.database.collection("budgets").find_one({"name": "crew"})
    assert renamed.status_code == 200
    assert kept is not None
    assert kept["notice"]["percent"] == notices[-1]["after"]["percent"]
    assert budget["spent"] >= 4
    assert "'team'" not in str(answer)
    assert "A budget for this call is spent" in str(answer)
    assert notices[-1]["after"]["name"] == "team"
    assert len(notices) <= 2


async def until_written(rest: Rest, user: UserContext, path: str, spent: int) -> dict[str, Any]:
    """Return a budget, as soon as so much of it is known to be spent."""
    async with asyncio.timeout(30):
        while (found := (await rest.ask(user, "GET", path)).json())["spent"] < spent:
            await SystemClock().sleep(0.05)
    return dict(found)


async def usage(rest: Rest, user: UserContext) -> dict[str, Any]:
    answer = await rest.ask(user, "GET", "/usage", params={"group_by": "tool"})
    return dict(answer.json()["total"])


async def reported(rest: Rest, user: UserContext) -> list[dict[str, Any]]:
    answer = await rest.ask(user, "GET", "/audit", params={"entity_type": "budget"})
    records = answer.json()["records"]
    return [record["changes"] for record in records if record["action"] == "notice"]


@pytest.mark.parametrize(
    "body",
    [
        {"amount": -1},
        {"amount": 1e10},
        {"amount": True},
        {"amount": 1e-7},
        {"amount": 0.1234567},
        {"amount": "5"},
        {"subjects": {}},
        {"subjects": {"groups": ["a" * 24]}},
        {"subjects": {"users": ["5" * 24]}},
        {"name": ""},
        {"name": "a\nb"},
        {"billing_tags": [""]},
        {"color": "red"},
    ],
)
async def test_budgets_that_make_no_sense_are_refused(
    rest: Rest, root: UserContext, body: dict[str, Any]
) -> None:
    answer = await rest.ask(root, "POST", "/budgets", json={**BODY, **body})

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


async def test_only_administrators_have_budgets(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    budget = await made(rest, root)

    path = f"/budgets/{budget['id']}"
    tried = [
        await rest.ask(alice, "POST", "/budgets", json=BODY),
        await rest.ask(alice, "GET", path),
        await rest.ask(alice, "PATCH", path, json={"amount": 1}),
        await rest.ask(alice, "DELETE", path),
        await rest.ask(root, "POST", "/budgets", json=BODY),
        await rest.ask(root, "PATCH", path, json={"amount": 1}, headers={"If-Match": '"9"'}),
        await rest.ask(root, "PATCH", path, json={"amount": None}),
    ]
    listed = await rest.ask(alice, "GET", "/budgets")

    assert [answer.status_code for answer in tried] == [403, 404, 404, 404, 409, 409, 422]
    assert listed.json()["budgets"] == []
    assert (await rest.ask(root, "GET", "/budgets")).json()["budgets"] == [budget]
