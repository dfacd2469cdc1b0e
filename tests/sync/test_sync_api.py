"""Synchronisation as operators and senders of webhooks see it."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId

from packages.database.encryption import FieldRef
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.core.webhook_signatures import signature
from registry.wiring.keys import build_cipher
from tests.fakes.plain_upstream import ECHO, PlainUpstream
from tests.fakes.rest import Rest
from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
from tests.sync.bad_objects import bad_tools

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
OWNER = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
OTHER = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
ADD = '{"name":"add","description":"Adds.","inputSchema":{"type":"object"}}'
CHANGED_ECHO = ECHO.replace("Says it again.", "Says it louder, and mails it.")


async def sync(rest: Rest, server: dict[str, Any], user: UserContext = OWNER) -> dict[str, Any]:
    """Have a server read, and return the finished job."""
    answer = await rest.ask(user, "POST", f"/sync/owners/{server['id']}")
    assert answer.status_code == 202, answer.text
    return await rest.job(user, answer.json()["job_id"])


def signed(
    secret: str, rest: Rest, message_id: str = "msg_1", body: bytes = b"{}"
) -> dict[str, str]:
    """Return the headers of a call that is genuine now."""
    at = str(int(rest.parts.clock.now().timestamp()))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": at,
        "webhook-signature": signature(message_id, at, body, secret),
    }


async def call(
    rest: Rest, server: dict[str, Any], headers: dict[str, str], body: bytes = b"{}"
) -> httpx.Response:
    """Call a webhook, as somebody without a token."""
    path = f"/api/v1/sync/webhooks/{server['id']}"
    return await rest.client.post(path, content=body, headers=headers)


async def webhook(rest: Rest, server: dict[str, Any], mode: str = "webhook") -> str:
    """Turn the webhook of a server on; return its secret."""
    await rest.call(OWNER, "PATCH", f"/{server['id']}", json={"syncMode": mode})
    answer = await rest.ask(OWNER, "PUT", f"/sync/owners/{server['id']}/webhook")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["secret"])


@pytest.mark.requirement("R-162")
@pytest.mark.requirement("R-150")
@pytest.mark.requirement("R-074")
@pytest.mark.requirement("R-032")
async def test_a_sync_is_a_job_that_finds_what_changed(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.tools = f"[{ECHO},{ADD}]"

    job = await sync(rest, server)

    assert (job["state"], job["trigger"], job["attempts"]) == ("succeeded", "manual", 1)
    assert job["counts"] == {"offered": 2, "added": 1}
    assert job["requested_by"] == {"user_id": OWNER.user_id, "username": "alice"}
    assert [(run["outcome"], run.get("worker")) for run in job["runs"]] == [("success", None)]
    for_root = await rest.job(ROOT, job["id"])
    assert [run["worker"] for run in for_root["runs"]] != [""]
    detail = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()
    assert detail["tools"] == "echo, add"
    assert detail["lastSyncStatus"] == "success"
    assert detail["lastSyncStartedAt"] <= detail["lastSyncCompletedAt"]


@pytest.mark.requirement("R-172")
async def test_a_sync_that_finds_nothing_new_leaves_no_trace_but_its_job(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    audited = rest.parts.database.collection("audit_logs")
    before = await audited.count_documents({})

    job = await sync(rest, server)

    detail = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()
    assert job["counts"] == {"offered": 1}
    assert detail["updatedAt"] == server["updatedAt"]
    assert await audited.count_documents({}) == before


@pytest.mark.requirement("R-150")
async def test_a_second_wish_joins_the_job_that_is_under_way(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.released.clear()
    path = f"/sync/owners/{server['id']}"

    first = (await rest.ask(OWNER, "POST", path)).json()
    second = (await rest.ask(ROOT, "POST", path)).json()
    upstream.released.set()

    assert (first["deduplicated"], second["deduplicated"]) == (False, True)
    assert first["job_id"] == second["job_id"]
    assert len(await rest.jobs(ROOT, server)) == 1


@pytest.mark.requirement("R-150")
@pytest.mark.parametrize(
    ("user", "status"), [(OTHER, 404), (ROOT, 202)], ids=["stranger", "admin"]
)
async def test_who_may_have_a_private_server_read(
    rest: Rest, upstream: PlainUpstream, user: UserContext, status: int
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)

    answer = await rest.ask(user, "POST", f"/sync/owners/{server['id']}")

    assert answer.status_code == status
    assert (await rest.ask(user, "POST", f"/sync/owners/{'0' * 24}")).status_code == 404
    await rest.jobs(ROOT, server)


async def test_whoever_only_sees_a_server_may_not_have_it_read_but_sees_its_jobs(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    job = await sync(rest, server, ROOT)

    refused = await rest.ask(OWNER, "POST", f"/sync/owners/{server['id']}")
    secret = await rest.ask(OWNER, "PUT", f"/sync/owners/{server['id']}/webhook")
    again = await rest.ask(OWNER, "POST", f"/sync/jobs/{job['id']}/retry")
    seen = await rest.ask(OWNER, "GET", f"/sync/jobs/{job['id']}")

    assert {refused.status_code, secret.status_code, again.status_code} == {403}
    assert seen.json()["counts"] == {"offered": 1}


async def test_jobs_of_what_somebody_does_not_see_are_not_there(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    job = await sync(rest, server)

    listed = (await rest.ask(OTHER, "GET", "/sync/jobs")).json()
    asked = await rest.ask(OTHER, "GET", "/sync/jobs", params={"owner_id": server["id"]})
    one = await rest.ask(OTHER, "GET", f"/sync/jobs/{job['id']}")

    assert (listed["jobs"], listed["pagination"]["total"]) == ([], 0)
    assert asked.json()["jobs"] == []
    assert one.status_code == 404
    assert (await rest.ask(OTHER, "POST", f"/sync/jobs/{job['id']}/retry")).status_code == 404


@pytest.mark.requirement("R-160")
@pytest.mark.requirement("R-156")
@pytest.mark.requirement("R-157")
@pytest.mark.requirement("R-287")
async def test_a_failed_sync_is_tried_again_and_told_and_changes_no_tools(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.redirects_to = "http://127.0.0.1:9/elsewhere"

    answer = await rest.ask(OWNER, "POST", f"/sync/owners/{server['id']}")
    job_id = answer.json()["job_id"]
    job = await rest.job(OWNER, job_id, until=frozenset({"retrying"}))
    detail = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()

    assert job["next_attempt_at"] > job["runs"][0]["finished_at"]
    assert "redirects" in job["error"]
    assert detail["tools"] == "echo"
    assert (detail["lastSyncStatus"], detail["status"]) == ("failure", "active")
    assert "redirects" in detail["errorMessage"]

    upstream.redirects_to = None
    done = await sync(rest, server)
    healed = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()
    assert (done["id"], done["state"], done["attempts"]) == (job_id, "succeeded", 2)
    assert [run["outcome"] for run in done["runs"]] == ["success", "failure"]
    assert "error" not in done
    assert (healed["errorMessage"], healed["lastSyncStatus"]) == (None, "success")


@pytest.mark.requirement("R-156")
async def test_what_was_given_up_can_be_asked_for_again(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    servers = rest.parts.database.collection("mcpservers")
    key = {"_id": ObjectId(server["id"])}
    await servers.update_one(key, {"$set": {"config.url": "http://169.254.169.254/mcp"}})

    dead = await sync(rest, server)
    await servers.update_one(key, {"$set": {"config.url": upstream.url}})
    answer = await rest.ask(OWNER, "POST", f"/sync/jobs/{dead['id']}/retry")
    done = await rest.job(OWNER, dead["id"])
    again = await rest.ask(OWNER, "POST", f"/sync/jobs/{dead['id']}/retry")

    assert (dead["state"], dead["attempts"]) == ("dead", 1)
    assert answer.status_code == 202
    assert done["state"] == "succeeded"
    assert (again.status_code, again.json()["state"]) == (409, "succeeded")


async def test_a_server_that_is_off_is_not_read(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    await rest.call(OWNER, "POST", f"/{server['id']}/toggle", json={"enabled": False})

    answer = await rest.ask(OWNER, "POST", f"/sync/owners/{server['id']}")

    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")


async def test_the_job_of_a_server_that_goes_away_is_cancelled(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.released.clear()
    upstream.reached.clear()
    job_id = (await rest.ask(OWNER, "POST", f"/sync/owners/{server['id']}")).json()["job_id"]
    await upstream.reached.wait()
    await rest.call(OWNER, "DELETE", f"/{server['id']}")
    upstream.released.set()

    job = await rest.job(ROOT, job_id)

    assert (job["state"], job["error"]) == ("cancelled", "The server was removed.")
    assert (await rest.ask(OWNER, "GET", f"/sync/jobs/{job_id}")).status_code == 404
    assert (await rest.ask(ROOT, "POST", f"/sync/jobs/{job_id}/retry")).status_code == 409


@pytest.mark.requirement("R-167")
@pytest.mark.requirement("R-161")
@pytest.mark.requirement("R-168")
async def test_a_shared_server_holds_what_changed_until_somebody_decides(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(ROOT, "sums", upstream.url, scope="shared_app")
    upstream.tools = f"[{CHANGED_ECHO},{ADD}]"

    job = await sync(rest, server, ROOT)
    await rest.follow()

    review = await rest.ask(ROOT, "GET", "/registry/tools", params={"review": "pending"})
    assert job["counts"] == {"offered": 2, "added": 1, "held": 1}
    assert {tool["name"] for tool in review.json()["tools"]} == {"echo", "add"}
    assert (await rest.call(ROOT, "GET", f"/{server['id']}")).json()["tools"] == "echo"


@pytest.mark.requirement("R-157")
@pytest.mark.requirement("E-03")
async def test_a_tool_that_cannot_be_taken_any_more_says_why_and_is_served_on(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    broken = '{"name":"echo","inputSchema":{"type":"object","properties":7}}'
    upstream.tools = f"[{broken},{ADD}]"

    job = await sync(rest, server)
    query = {"owner_id": server["id"]}
    tools = (await rest.ask(OWNER, "GET", "/registry/tools", params=query)).json()["tools"]
    echo = next(tool for tool in tools if tool["name"] == "echo")
    told = (await rest.ask(OWNER, "GET", f"/registry/tools/{echo['id']}")).json()

    assert job["counts"] == {"offered": 1, "rejected": 1, "added": 1}
    assert (echo["registration_state"], echo["exposure_state"]) == ("selected", "active")
    assert "inputSchema" in told["sync_error"]

    upstream.tools = f"[{ECHO},{ADD}]"
    await sync(rest, server)
    healed = (await rest.ask(OWNER, "GET", f"/registry/tools/{echo['id']}")).json()
    assert healed.get("sync_error") is None


@pytest.mark.requirement("R-157")
@pytest.mark.parametrize(
    "told", ["deeper than Python reads", "half a pair", "beyond floats", "a key twice"]
)
async def test_a_tool_that_no_parser_reads_any_more_is_served_on_and_costs_no_other(
    rest: Rest, upstream: PlainUpstream, told: str
) -> None:
    bad, reason = bad_tools("echo")[told]
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.tools = f"[{ADD},{bad.decode()},{ADD.replace('add', 'sub')}]"

    refreshed = await rest.call(OWNER, "POST", f"/{server['id']}/refresh")

    served = (await rest.call(OWNER, "GET", f"/{server['id']}/tools")).json()["tools"]
    listed = await rest.ask(OWNER, "GET", "/registry/tools?owner_id=" + server["id"])
    echo = next(item for item in listed.json()["tools"] if item["name"] == "echo")
    record = await rest.ask(OWNER, "GET", f"/registry/tools/{echo['id']}")
    assert refreshed.json()["toolProblems"] == [{"name": "echo", "reason": reason}]
    assert {tool["name"] for tool in served} == {"add", "echo", "sub"}
    assert record.json()["sync_error"] == reason


@pytest.mark.parametrize(
    ("schema", "is_taken"),
    [
        ('{"type":"object","$schema":["x"]}', False),
        ('{"type":"object","default":{"\\u0000":1,"$a.b":2,"":3}}', True),
        ('{"type":"object","properties":{"\\u0000":{"maximum":99999999999999999999}}}', True),
        ('{"type":"object","properties":{"p":{"pattern":"(("}}}', True),
    ],
)
async def test_an_odd_schema_costs_neither_a_reading_nor_the_answers_about_it(
    rest: Rest, upstream: PlainUpstream, schema: str, *, is_taken: bool
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.tools = f'[{ECHO},{{"name":"odd","inputSchema":{schema}}},{ADD}]'

    refreshed = await rest.call(OWNER, "POST", f"/{server['id']}/refresh")

    served = (await rest.call(OWNER, "GET", f"/{server['id']}/tools")).json()["tools"]
    listed = await rest.ask(OWNER, "GET", "/registry/tools?owner_id=" + server["id"])
    details = [
        await rest.ask(OWNER, "GET", f"/registry/tools/{tool['id']}")
        for tool in listed.json()["tools"]
    ]
    assert refreshed.status_code == 200
    assert {"echo", "add"} <= {tool["name"] for tool in served}
    assert ("odd" in {tool["name"] for tool in served}) is is_taken
    assert [answer.status_code for answer in details] == [200] * (2 + is_taken)


@pytest.mark.requirement("R-031")
@pytest.mark.parametrize(
    "wrong",
    [
        {"syncMode": "sometimes"},
        {"syncMode": None},
        {"syncIntervalSeconds": 0},
        {"syncIntervalSeconds": -60},
        {"syncIntervalSeconds": 59},
        {"syncIntervalSeconds": 10**12},
        {"syncIntervalSeconds": 1.5},
        {"syncIntervalSeconds": "600"},
        {"syncIntervalSeconds": True},
        {"nextSyncAt": "2030-01-01T00:00:00Z"},
    ],
)
async def test_other_modes_and_intervals_are_refused(
    rest: Rest, upstream: PlainUpstream, wrong: dict[str, object]
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)

    answer = await rest.call(OWNER, "PATCH", f"/{server['id']}", json=wrong)

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")


@pytest.mark.requirement("R-155")
async def test_a_schedule_is_told_kept_and_ended(rest: Rest, upstream: PlainUpstream) -> None:
    fields = {"syncMode": "scheduled", "syncIntervalSeconds": 600}
    server = await rest.register(OWNER, "sums", upstream.url, **fields)
    path = f"/{server['id']}"
    due_at = server["nextSyncAt"]
    slower = (await rest.call(OWNER, "PATCH", path, json={"syncIntervalSeconds": 7200})).json()
    usual = (await rest.call(OWNER, "PATCH", path, json={"syncIntervalSeconds": None})).json()
    manual = (await rest.call(OWNER, "PATCH", path, json={"syncMode": "manual"})).json()

    assert server["syncIntervalSeconds"] == 600
    assert slower["nextSyncAt"] > due_at
    assert due_at < usual["nextSyncAt"] < slower["nextSyncAt"]
    assert usual["syncIntervalSeconds"] == 3600
    assert "nextSyncAt" not in manual


@pytest.mark.requirement("R-155")
async def test_a_server_is_read_when_its_time_has_come_and_is_due_later_again(
    rest: Rest, upstream: PlainUpstream
) -> None:
    fields = {"syncMode": "scheduled", "syncIntervalSeconds": 600}
    server = await rest.register(OWNER, "sums", upstream.url, **fields)
    still = await rest.register(OWNER, "still", upstream.url)
    now = rest.parts.clock.now()
    await rest.parts.database.collection("sync_states").update_one(
        {"_id": ObjectId(server["id"])}, {"$set": {"next_sync_at": now}}
    )

    jobs = await rest.jobs(ROOT, server, at_least=1)
    detail = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()

    assert [(job["trigger"], job["state"]) for job in jobs] == [("schedule", "succeeded")]
    assert "requested_by" not in jobs[0]
    assert detail["nextSyncAt"] > (now + timedelta(seconds=500)).isoformat()
    assert await rest.jobs(ROOT, still) == []


@pytest.mark.requirement("R-155")
async def test_a_genuine_call_has_the_server_read(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    secret = await webhook(rest, server)
    upstream.tools = f"[{ECHO},{ADD}]"

    answer = await call(rest, server, signed(secret, rest))
    job = await rest.job(OWNER, answer.json()["job_id"])

    assert (answer.status_code, answer.json()["duplicate"]) == (202, False)
    assert (job["trigger"], job["counts"]) == ("webhook", {"offered": 2, "added": 1})
    detail = (await rest.call(OWNER, "GET", f"/{server['id']}")).json()
    assert detail["webhook"] is True
    assert secret not in json.dumps(detail)


@pytest.mark.requirement("R-155")
async def test_a_call_that_is_repeated_begins_nothing(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    headers = signed(await webhook(rest, server), rest)
    first = (await call(rest, server, headers)).json()
    await rest.job(OWNER, first["job_id"])

    again = (await call(rest, server, headers)).json()

    assert again == {"job_id": first["job_id"], "duplicate": True}
    assert len(await rest.jobs(ROOT, server)) == 1


@pytest.mark.requirement("R-155")
async def test_of_calls_with_one_id_at_the_same_moment_one_is_the_first(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    headers = signed(await webhook(rest, server), rest)

    answers = await asyncio.gather(*(call(rest, server, headers) for _ in range(8)))

    assert [answer.status_code for answer in answers] == [202] * 8
    assert sorted(answer.json()["duplicate"] for answer in answers) == [False] + [True] * 7


@pytest.mark.requirement("R-155")
async def test_calls_that_nobody_vouches_for_are_refused_alike(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    without = await rest.register(OWNER, "without", upstream.url)
    secret = await webhook(rest, server)
    former = secret
    secret = await webhook(rest, server)
    headers = signed(secret, rest)

    answers = [
        await call(rest, server, signed(former, rest)),
        await call(rest, server, headers, b'{"other": 1}'),
        await call(rest, without, headers),
        await call(rest, {"id": "0" * 24}, headers),
    ]
    removed = await rest.ask(OWNER, "DELETE", f"/sync/owners/{server['id']}/webhook")
    answers.append(await call(rest, server, headers))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert removed.status_code == 204
    assert await rest.jobs(ROOT, server) == []


async def test_a_genuine_call_for_a_server_in_another_mode_is_told_so(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    secret = await webhook(rest, server, mode="manual")

    answer = await call(rest, server, signed(secret, rest))

    assert (answer.status_code, answer.json()["sync_mode"]) == (409, "manual")
    assert await rest.jobs(ROOT, server) == []


async def test_a_call_with_a_large_body_is_refused(rest: Rest, upstream: PlainUpstream) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)

    answer = await call(rest, server, {}, b"x" * 100_000)

    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")


@pytest.mark.requirement("R-102")
async def test_the_secret_is_stored_sealed_and_recorded_without_it(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    secret = await webhook(rest, server)

    stored = await rest.parts.database.collection("mcpservers").find_one({"serverName": "sums"})
    records = await rest.parts.database.collection("audit_logs").find({}).to_list()

    assert stored is not None
    sealed = stored["registry"]["webhook_secret"]
    place = FieldRef("mcpservers", server["id"], "registry.webhook_secret")
    assert build_cipher(rest.parts.settings).unseal(sealed, place) == secret
    told = [record for record in records if record["changes"].get("secrets")]
    assert told[-1]["changes"]["after"] == {"webhook": True}
    assert secret not in str(records)
    assert sealed not in str(records)


@pytest.mark.requirement("R-170")
async def test_an_announcement_heard_on_a_stream_has_the_server_read(
    rest: Rest, upstream: PlainUpstream
) -> None:
    server = await rest.register(OWNER, "sums", upstream.url)
    upstream.tools = f"[{ECHO},{ADD}]"
    upstream.announces = True
    headers = {
        "Authorization": f"Bearer {rest.token(OWNER)}",
        "Accept": "application/json, text/event-stream",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
    message["params"] = {"name": "echo", "arguments": {"text": "hello"}}

    answer = await rest.client.post("/mcp/sums", json=message, headers=headers)
    jobs = await rest.jobs(ROOT, server, at_least=1)

    assert b"list_changed" in answer.content
    assert [(job["trigger"], job["counts"]) for job in jobs] == [
        ("notification", {"offered": 2, "added": 1})
    ]
