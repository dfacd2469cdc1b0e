"""Requests for approval through the API: who sees them and decides, what is shown."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from bson import ObjectId

from packages.models.states import ApprovalState, Verdict
from registry.approvals.values import Approval
from registry.auth.identity import ALL_SCOPES, OPERATOR, USER_SCOPES, Role, Scope, UserContext
from tests.approvals.requests import requested
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

APPROVING = USER_SCOPES | {Scope.APPROVE_TOOLS}
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
ANNA = UserContext("a" * 24, "anna", Role.USER, APPROVING, is_service_account=True)
BEN = UserContext("b" * 24, "ben", Role.USER, APPROVING)
EVE = UserContext("e" * 24, "eve", Role.USER, USER_SCOPES)
MUCH = 12345678901234567890
ARGUMENTS = {
    "text": "hello",
    "pin": "1234",
    "to": {"key": "s3cret", "cents": MUCH},
}
PAY = (
    '{"name":"echo","description":"Pays.","inputSchema":{"type":"object","properties":{'
    '"text":{"type":"string"},"pin":{"type":"string","format":"password"},'
    '"to":{"type":"object","properties":{"key":{"type":"string","writeOnly":true}}}}}}'
)
SECRETS = ('1234"', "s3cret")


@dataclass(frozen=True)
class Bank:
    """A shared server, and one that only its owner sees."""

    rest: Rest
    server_id: str
    private_id: str

    async def request(self, user: UserContext = ANNA, **changed: Any) -> Approval:
        """Open a request for a call of a tool that all may use."""
        return await requested(self.rest, user, self.server_id, "echo", ARGUMENTS, **changed)

    async def step(
        self, user: UserContext, approval: Approval, step: str, **sent: Any
    ) -> httpx.Response:
        """Approve, deny or cancel."""
        return await self.rest.ask(user, "POST", f"/approvals/{approval.id}/{step}", **sent)

    async def ids(self, user: UserContext, **query: Any) -> list[str]:
        """Return the ids of the requests that somebody is shown."""
        answer = await self.rest.ask(user, "GET", "/approvals", params=query)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["approvals"]]


@pytest_asyncio.fixture(loop_scope="module")
async def bank(rest: Rest, upstream: PlainUpstream) -> AsyncIterator[Bank]:
    upstream.tools = f"[{PAY}]"
    shared = await rest.register(ROOT, "bank", upstream.url, scope="shared_app")
    private = await rest.register(EVE, "diary", upstream.url)
    yield Bank(rest, shared["id"], private["id"])


def said(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    return answer.status_code, body.get("state") or body["message"]


@pytest.mark.requirement("R-225")
async def test_a_call_is_shown_with_its_secrets_hidden_and_approved_by_somebody_else(
    bank: Bank,
) -> None:
    approval = await bank.request(needed=2)

    shown = await bank.rest.ask(BEN, "GET", f"/approvals/{approval.id}")
    own = await bank.step(ANNA, approval, "approve")
    without_scope = await bank.step(EVE, approval, "approve")
    other = await bank.rest.ask(EVE, "GET", f"/approvals/{approval.id}")
    stale = await bank.step(BEN, approval, "approve", headers={"If-Match": '"99"'})
    first = await bank.step(
        BEN, approval, "approve", json={"comment": "ok"}, headers={"If-Match": '"0"'}
    )
    again = await bank.step(BEN, approval, "approve")
    second = await bank.step(ROOT, approval, "approve")

    body = shown.json()
    assert (shown.status_code, shown.headers["ETag"]) == (200, '"0"')
    assert body["arguments"] == {
        "text": "hello",
        "pin": "(hidden)",
        "to": {"key": "(hidden)", "cents": MUCH},
    }
    assert body["definition"]["description"] == "Pays."
    assert body["definition_is_current"] is True
    history = await bank.rest.ask(ROOT, "GET", body["tool_history"].removeprefix("/api/v1"))
    assert history.status_code == 200
    assert said(own) == (403, "Somebody else must approve this call: it is your own.")
    assert without_scope.status_code == 403
    assert other.status_code == 404
    assert said(stale) == (409, "The request has changed since it was read; read it again.")
    assert said(first) == (200, "pending")
    assert first.json()["decisions"][0]["comment"] == "ok"
    assert said(again) == (409, "You have decided about this request already.")
    assert said(second) == (200, "approved")
    texts = shown.text + first.text + second.text
    assert not any(secret in texts for secret in SECRETS)
    audit = await bank.rest.ask(ROOT, "GET", "/audit", params={"entity_type": "approval"})
    steps = [(one["action"], one["username"]) for one in audit.json()["records"]]
    assert {("create", "anna"), ("accept", "ben"), ("accept", "root")} <= set(steps)
    assert not any(secret in audit.text for secret in SECRETS)


@pytest.mark.requirement("R-226")
async def test_what_was_approved_is_executed_once(bank: Bank, upstream: PlainUpstream) -> None:
    approval = await bank.request()
    upstream.methods.clear()

    answers = await asyncio.gather(
        *(bank.step(user, approval, "approve") for user in (BEN, ROOT, BEN, ROOT))
    )
    shown = await ended(bank, approval)

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert (shown["state"], shown["reason"]) == ("executed", None)
    assert upstream.methods.count("tools/call") == 1


@pytest.mark.requirement("R-225")
async def test_one_denial_denies_and_requesters_may_withdraw(bank: Bank) -> None:
    denied, cancelled = await bank.request(needed=2), await bank.request(EVE)

    await bank.step(ROOT, denied, "approve")
    no = await bank.step(BEN, denied, "deny", json={"comment": "too much"})
    late = await bank.step(ROOT, denied, "deny")
    not_theirs = await bank.step(BEN, cancelled, "cancel")
    gone = await bank.step(EVE, cancelled, "cancel")
    too_late = await bank.step(BEN, cancelled, "approve")

    assert said(no) == (200, "denied")
    assert no.json()["reason"] == "too much"
    assert late.status_code == 409
    assert late.json()["message"] == "The request is denied (too much)."
    assert not_theirs.status_code == 404
    assert said(gone) == (200, "cancelled")
    assert too_late.status_code == 409


@pytest.mark.requirement("E-20")
async def test_those_who_may_not_use_a_tool_do_not_approve_its_calls(bank: Bank) -> None:
    approval = await bank.request(needed=2)
    policy = {
        "name": "not for ben",
        "effect": "deny",
        "target": {"owner_id": bank.server_id, "tools": ["echo"]},
        "subjects": {"users": [BEN.user_id]},
    }
    stored = bank.rest.parts.database.collection("users")
    await stored.insert_one({"_id": _object_id(BEN), "username": "ben", "role": "USER"})
    made = await bank.rest.ask(ROOT, "POST", "/access/policies", json=policy)

    refused = await bank.step(BEN, approval, "approve")
    no = await bank.step(BEN, approval, "deny")

    assert made.status_code == 201, made.text
    assert said(refused) == (
        403,
        "You may not use this tool yourself, so you may not approve its calls.",
    )
    assert said(no) == (200, "denied")


async def test_lists_hold_what_one_asked_for_or_may_decide(bank: Bank) -> None:
    theirs, evas = await bank.request(needed=2), await bank.request(EVE)
    secret = await requested(bank.rest, EVE, bank.private_id, "echo", {"text": "dear diary"})
    await bank.step(ROOT, theirs, "deny")

    assert await bank.ids(EVE) == [secret.id, evas.id]
    assert await bank.ids(EVE, requester=ANNA.user_id) == []
    assert await bank.ids(BEN) == [evas.id, theirs.id]
    assert await bank.ids(BEN, requester=BEN.user_id) == []
    assert await bank.ids(BEN, state="pending") == [evas.id]
    assert await bank.ids(BEN, server_id=bank.private_id) == []
    assert await bank.ids(ROOT) == [secret.id, evas.id, theirs.id]
    assert await bank.ids(ROOT, requester=EVE.user_id, server_id=bank.server_id) == [evas.id]
    assert await bank.ids(ROOT, tool="other") == []
    first = await bank.rest.ask(ROOT, "GET", "/approvals", params={"limit": 2})
    rest = await bank.ids(ROOT, cursor=first.json()["next_cursor"])
    assert rest == [theirs.id]
    wrong = await bank.rest.ask(ROOT, "GET", "/approvals", params={"cursor": "x"})
    assert wrong.status_code == 422


@pytest.mark.requirement("E-20")
async def test_arguments_are_not_shown_by_another_definition(
    bank: Bank, upstream: PlainUpstream
) -> None:
    approval = await bank.request(needed=2)
    upstream.tools = f"[{PAY.replace('password', 'date').replace('Pays', 'Plays')}]"
    refreshed = await bank.rest.ask(
        ROOT, "POST", f"/servers/{bank.server_id}/refresh", params={"accept": "true"}
    )
    assert refreshed.status_code == 200, refreshed.text

    shown = (await bank.rest.ask(BEN, "GET", f"/approvals/{approval.id}")).json()

    assert (shown["definition"]["description"], shown["definition_is_current"]) == (
        "Plays.",
        False,
    )
    assert shown["arguments"] is None
    assert shown["state"] == ApprovalState.PENDING


def _object_id(user: UserContext) -> Any:
    return ObjectId(user.user_id)


async def ended(bank: Bank, approval: Approval) -> dict[str, Any]:
    """Wait until an approved request is executed or void, and return it."""
    async with asyncio.timeout(20):
        while True:
            shown = (await bank.rest.ask(ROOT, "GET", f"/approvals/{approval.id}")).json()
            if shown["state"] not in {"approved", "executing"}:
                return dict(shown)
            await bank.rest.parts.clock.sleep(0.02)


@pytest.mark.requirement("R-226")
@pytest.mark.requirement("E-20")
@pytest.mark.parametrize("changed", ["definition", "policies", "active"])
async def test_what_changed_meanwhile_makes_a_request_void(
    bank: Bank, upstream: PlainUpstream, changed: str
) -> None:
    approval = await bank.request()
    policy = {
        "name": "not for eve",
        "effect": "deny",
        "target": {"owner_id": bank.server_id, "tools": ["echo"]},
        "subjects": {"scopes": ["never"]},
    }
    upstream.methods.clear()
    steps = {
        "definition": ("POST", f"/servers/{bank.server_id}/refresh?accept=true", None),
        "policies": ("POST", "/access/policies", policy),
        "active": ("POST", f"/servers/{bank.server_id}/toggle", {"enabled": False}),
    }
    upstream.tools = upstream.tools.replace("Pays", "Pays twice")
    done = await bank.rest.ask(ROOT, *steps[changed][:2], json=steps[changed][2])
    assert done.is_success, done.text

    # The operator, who may approve whatever is served to whom.
    await bank.rest.parts.approvals.decide(approval.id, OPERATOR, Verdict.APPROVE)
    shown = await ended(bank, approval)

    assert (shown["state"], changed in shown["reason"]) == ("void", True)
    assert "tools/call" not in upstream.methods


async def test_an_explanation_names_the_calls_that_wait_of_its_caller_alone(bank: Bank) -> None:
    found = (await bank.rest.ask(ROOT, "GET", "/registry/tools")).json()["tools"]
    tool = next(one for one in found if one["owner_id"] == bank.server_id)
    stated = {"tool_metadata": {"human_approval_required": True}}
    await bank.rest.ask(ROOT, "PATCH", f"/registry/tools/{tool['id']}", json=stated)
    waiting = await requested(bank.rest, EVE, bank.server_id, "echo", {"text": "waits"})
    denied = await requested(bank.rest, EVE, bank.server_id, "echo", {"text": "denied"})
    await bank.step(BEN, denied, "deny")

    asked = {"server_id": bank.server_id, "tool": "echo"}
    of_eve = await bank.rest.ask(EVE, "POST", "/access/explain", json=asked)
    of_ben = await bank.rest.ask(BEN, "POST", "/access/explain", json=asked)

    assert of_eve.json()["allowed"] is True
    said = of_eve.json()["reasons"][-1]["message"]
    assert f" wait now: {waiting.id} (pending, 0 of 1 approved, expires 20" in said
    assert denied.id not in said
    assert "wait now" not in of_ben.json()["reasons"][-1]["message"]
