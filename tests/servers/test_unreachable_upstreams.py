"""With every upstream unreachable, everything that reads answers from the database alone."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from registry.auth.identity import UserContext
from tests.approvals.requests import requested
from tests.fakes.descriptions import document
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

OF_OTHERS = frozenset(
    {
        "/api/v1/tokens/{token_id}",
        "/api/v1/mcp/oauth/status/{flow_id}",
        "/api/v1/mcp/oauth/client.json",
        "/api/v1/mcp/oauth/signing-client.json",
        "/api/v1/mcp/{server_id}/oauth/initiate",
    }
)
"""Routes about things that no server has anything to do with, and of which there is none here."""


class Connections:
    """Addresses that were connected to while it was looking."""

    def __init__(self) -> None:
        self.looking = False
        self.addresses: list[Any] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of an event of the interpreter."""
        if self.looking and event == "socket.connect":
            self.addresses.append(arguments[1])


@pytest.fixture(scope="module")
def connections() -> Connections:
    """Return what hears of every connection of this process; a hook cannot be taken out again."""
    heard = Connections()
    sys.addaudithook(heard)
    return heard


@pytest.fixture
def looking(connections: Connections) -> Iterator[Connections]:
    yield connections
    connections.looking = False


async def paths(rest: Rest, api_id: str, **values: str) -> list[str]:
    """Return the paths of all GET routes, with *values* in place of their parameters."""
    described = (await rest.client.get("/api/v1/openapi.json")).json()["paths"]
    return [
        path.format(**{**values, **({"server_id": api_id} if "/apis/" in path else {})})
        for path, operations in described.items()
        if "get" in operations and path not in OF_OTHERS
    ]


@pytest.mark.requirement("R-154")
@pytest.mark.requirement("R-003")
async def test_every_reading_route_answers_without_one_connection_to_anywhere_else(
    rest: Rest, root: UserContext, looking: Connections
) -> None:
    async with plain_upstream() as upstream:
        server = await rest.register(root, "weather", upstream.url, scope="shared_app")
        job_id = (await rest.ask(root, "POST", f"/sync/owners/{server['id']}")).json()["job_id"]
        await rest.job(root, job_id)
    tools = await rest.ask(root, "GET", "/registry/tools")
    policy = {"name": "x", "effect": "allow", "target": {}, "subjects": {"everyone": True}}
    made = await rest.ask(root, "POST", "/access/policies", json=policy)
    limited = await rest.ask(root, "POST", "/limits", json={"name": "x", "in_flight": 9})
    body = {"name": "x", "entries": [{"server": "weather", "tool": "*"}]}
    toolset = await rest.ask(root, "POST", "/toolsets", json=body)
    budget = {"name": "x", "amount": 100, "subjects": {"everyone": True}}
    budgeted = await rest.ask(root, "POST", "/budgets", json=budget)
    approval = await requested(rest, root, server["id"], "echo")
    # The other application owns the directory here.
    users, groups = (rest.parts.database.collection(name) for name in ("users", "groups"))
    user_id = (await users.insert_one({"name": "A", "email": "a@b.example"})).inserted_id
    group_id = (await groups.insert_one({"name": "A", "memberIds": []})).inserted_id
    values = {
        "job_id": job_id,
        "owner_id": server["id"],
        "tool_id": tools.json()["tools"][0]["id"],
        "policy_id": made.json()["id"],
        "budget_id": budgeted.json()["id"],
        "limit_id": limited.json()["id"],
        "toolset_id": toolset.json()["id"],
        "approval_id": approval.id,
        "server_id": server["id"],
        "version": "1",
        "resource_type": "mcpServer",
        "resource_id": server["id"],
        "slug": "weather",
        "user_id": str(user_id),
        "group_id": str(group_id),
        "name": "swagger-ui.css",
    }
    entry = {"name": "org.example/weather", "url": "http://weather.example/mcp", "version": "1"}
    made_entry = await rest.ask(root, "POST", "/catalog/servers", json=entry)
    list_of_none = {"source": "x", "document": {"servers": []}}
    imported = await rest.ask(root, "POST", "/catalog/imports", json=list_of_none)
    values |= {"entry_id": made_entry.json()["id"], "import_id": imported.json()["id"]}
    values["server_name"] = entry["name"]
    api = await rest.ask(root, "POST", "/apis", json={"name": "pets", "document": document()})
    swept = await paths(rest, api.json()["id"], **values)
    database = await rest.parts.database.client.address

    looking.looking = True
    answers = {}
    for path in swept:
        query = {"q": "root"} if path.endswith("search-principals") else {}
        token = {"Authorization": f"Bearer {rest.token(root)}"}
        answers[path] = await rest.client.get(path, params=query, headers=token)
    listed = await rest.client.post(
        "/mcp/weather",
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        headers={
            "Authorization": f"Bearer {rest.token(root)}",
            "Accept": "application/json, text/event-stream",
        },
    )
    looking.looking = False

    assert len(swept) > 12
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(
        swept, 200
    )
    assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["echo"]
    assert [address for address in looking.addresses if address[:2] != database] == []
