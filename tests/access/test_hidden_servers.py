"""With ADMIN_SEES_PRIVATE=false no route tells an administrator of others' private servers."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.usage.batches import BatchPacker
from registry.usage.repository import UsageRepository
from tests.approvals.requests import requested
from tests.fakes.plain_upstream import PlainUpstream, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running
from tests.usage.conftest import batch_of, call

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
OWNER = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
NOWHERE = "f" * 24
NAME = "sums-of-alice"

BODIES: dict[str, Any] = {
    "update_server": {"title": "Mine"},
    "replace_server": {"title": "Mine"},
    "toggle_server": {"enabled": False},
    "store_user_keys": {"values": {"KEY": "abc"}},
    "change_permissions": {"public": True},
    "update_tool": {"display_name": "Mine"},
    "update_policy": {"is_enabled": False},
    "update_limit": {"is_enabled": False},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hiding(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return an application whose administrators do not see private servers of others."""
    home = tmp_path_factory.mktemp("home")
    settings = rest_settings(mongo_uri, key_files, home, admin_sees_private=False)
    async with running(settings) as rest:
        yield rest


@pytest_asyncio.fixture(loop_scope="module")
async def upstream() -> AsyncIterator[PlainUpstream]:
    async with plain_upstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(loop_scope="module")
async def ids(hiding: Rest, upstream: PlainUpstream) -> AsyncIterator[dict[str, str]]:
    """Return what there is of a private server, by the names of path parameters."""
    server = await hiding.register(OWNER, NAME, upstream.url)
    tools = await hiding.ask(OWNER, "GET", "/registry/tools")
    policy = {
        "name": "not for others",
        "effect": "deny",
        "target": {"owner_id": server["id"], "tools": ["echo"]},
        "subjects": {"roles": ["admin"]},
    }
    made = await hiding.ask(OWNER, "POST", "/access/policies", json=policy)
    limit = {"name": "few", "target": {"owner_id": server["id"]}, "in_flight": 9}
    limited = await hiding.ask(OWNER, "POST", "/limits", json=limit)
    entries = [{"server": server["id"], "tool": "echo"}]
    toolset = await hiding.ask(
        OWNER, "POST", "/toolsets", json={"name": "hidden", "entries": entries}
    )
    approval = await requested(hiding, OWNER, server["id"], "echo")
    held = await hiding.ask(
        OWNER,
        "POST",
        "/access/quarantine",
        json={"kind": "tool", "subject": server["id"], "tool": "echo", "reason": "r"},
    )
    job = await hiding.ask(OWNER, "POST", f"/sync/owners/{server['id']}")
    await hiding.job(OWNER, job.json()["job_id"])
    yield {
        "server_id": server["id"],
        "owner_id": server["id"],
        "resource_id": server["id"],
        "tool_id": tools.json()["tools"][0]["id"],
        "policy_id": made.json()["id"],
        "limit_id": limited.json()["id"],
        "toolset_id": toolset.json()["id"],
        "approval_id": approval.id,
        "quarantine_id": held.json()["id"],
        "job_id": job.json()["job_id"],
    }
    await hiding.forget_everything()


ELSEWHERE = {
    "resource_type": "mcpServer",
    "version": "1",
    "name": "KEY",
    "flow_id": "f",
    "budget_id": "0" * 24,
}


async def operations(rest: Rest) -> list[tuple[str, str, str]]:
    """Return method, path and id of every operation about one thing of a server."""
    document = (await rest.client.get("/api/v1/openapi.json")).json()
    return [
        (method.upper(), path.removeprefix("/api/v1"), operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/api/v1")
        and "{" in path
        # Of no server.
        and path.split("/")[3] not in {"tokens", "users", "groups", "catalog"}
        # Its credential is a signature.
        if operation["operationId"] != "receive_webhook"
    ]


async def test_what_is_of_a_hidden_server_is_answered_like_what_does_not_exist(
    hiding: Rest, ids: dict[str, str]
) -> None:
    absent = {**dict.fromkeys(ids, NOWHERE), **ELSEWHERE}
    there = {**ids, **ELSEWHERE}
    told = {}
    for method, path, operation in await operations(hiding):
        sent = {"json": BODIES.get(operation, {})} if method in {"POST", "PUT", "PATCH"} else {}
        real = await hiding.ask(ROOT, method, path.format(**there), **sent)
        none = await hiding.ask(ROOT, method, path.format(**absent), **sent)
        is_alike = (real.status_code, real.text) == (none.status_code, none.text)
        if not is_alike or real.status_code < 400:
            told[f"{method} {path}"] = (real.status_code, real.text, none.status_code, none.text)

    assert told == {}
    assert (await hiding.ask(OWNER, "GET", f"/servers/{ids['server_id']}")).status_code == 200
    own = await hiding.ask(OWNER, "GET", f"/access/policies/{ids['policy_id']}")
    assert own.json()["is_enabled"] is True


@pytest.mark.parametrize(
    "path",
    [
        "/servers",
        f"/servers?query={NAME}",
        f"/servers?author={OWNER.user_id}",
        "/registry/tools",
        "/access/policies",
        "/approvals",
        "/sync/jobs",
        "/mcp/connection/status",
    ],
)
async def test_no_list_tells_of_a_hidden_server(
    hiding: Rest, ids: dict[str, str], path: str
) -> None:
    answer = await hiding.ask(ROOT, "GET", path)
    own = await hiding.ask(OWNER, "GET", path)

    assert (answer.status_code, own.status_code) == (200, 200)
    assert not any(value in answer.text for value in {*ids.values(), NAME, "not for others"})
    assert any(value in own.text for value in ids.values())


@pytest.mark.parametrize("key", ["owner_id", "applies_to"])
async def test_policies_of_a_hidden_server_are_not_found_by_its_id(
    hiding: Rest, ids: dict[str, str], key: str
) -> None:
    answer = await hiding.ask(ROOT, "GET", "/access/policies", params={key: ids["server_id"]})

    assert answer.json()["policies"] == []


async def test_policies_about_all_servers_stay_the_administrators(
    hiding: Rest, ids: dict[str, str]
) -> None:
    policy = {
        "name": "no echoes",
        "effect": "deny",
        "target": {"tools": ["echo"]},
        "subjects": {"everyone": True},
    }

    made = await hiding.ask(ROOT, "POST", "/access/policies", json=policy)
    listed = await hiding.ask(ROOT, "GET", "/access/policies")
    gone = await hiding.ask(ROOT, "DELETE", f"/access/policies/{made.json()['id']}")

    assert [item["name"] for item in listed.json()["policies"]] == ["no echoes"]
    # Only a server that they do not see has such a tool.
    assert json.dumps(made.json()["warnings"]) == '["No server has these tools now: echo."]'
    assert gone.status_code == 200


async def test_neither_explanations_nor_new_policies_tell_of_a_hidden_server(
    hiding: Rest, ids: dict[str, str]
) -> None:
    def policy(owner_id: str) -> dict[str, Any]:
        return {
            "name": "mine",
            "effect": "deny",
            "target": {"owner_id": owner_id},
            "subjects": {"everyone": True},
        }

    async def answers(owner_id: str, path: str) -> list[tuple[int, str]]:
        asked = [
            ("/access/explain", {"tool": "echo", "server_id": owner_id}),
            ("/access/explain", {"tool": "echo", "path": path}),
            ("/access/policies", policy(owner_id)),
            ("/access/simulate", {"policy": policy(owner_id)}),
        ]
        found = [await hiding.ask(ROOT, "POST", where, json=body) for where, body in asked]
        return [(answer.status_code, answer.text.replace(owner_id, "")) for answer in found]

    about = {"user_id": OWNER.user_id, "username": OWNER.username, "slug": NAME}
    batch = batch_of(call(**about, server_id=ids["server_id"]))
    packer, clock = BatchPacker(worker="host:1", retention=timedelta(days=1)), SystemClock()
    usage = UsageRepository(hiding.parts.database)
    assert await usage.insert(packer.document(batch, clock.now(), clock.monotonic()))

    hidden = await answers(ids["server_id"], f"/mcp/{NAME}")
    absent = await answers(NOWHERE, "/mcp/nothing")
    everywhere = {"policy": {**policy(NOWHERE), "target": {"tools": ["echo"]}}}
    by = {
        user: await hiding.ask(user, "POST", "/access/simulate", json=asked)
        for user, asked in ((ROOT, everywhere), (OWNER, {"policy": policy(ids["server_id"])}))
    }

    assert hidden == absent
    assert {status for status, _ in hidden} <= {404, 422}
    assert [(user.username, by[user].json()["calls"]) for user in by] == [
        ("root", 0),
        ("alice", 1),
    ]
