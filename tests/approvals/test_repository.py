"""Requests for approval at rest, against a real server: each step is taken once."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from packages.database.client import Database
from packages.database.encryption import Cipher, DecryptionError
from packages.models.states import ApprovalState, Verdict
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import (
    Approval,
    ApprovalFilter,
    Decision,
    RequestedCall,
    Requester,
    digest_of,
)
from registry.auth.identity import Role
from registry.core.clock import SystemClock
from tests.conftest import CREDS_IV, CREDS_KEY

pytestmark = pytest.mark.wire

SERVER_ID, OTHER_ID = "c" * 24, "d" * 24
ANNA = Requester("a" * 24, "anna", Role.USER, ("invoke:tools",), "token")
CALL = RequestedCall(
    server_id=SERVER_ID,
    server_name="bank",
    tenant_id=None,
    tool="pay",
    called_as="bank__pay",
    path="/mcp",
    definition_hash="definition",
    arguments={"to": "bob", "cents": 12345678901234567890},
    policy_version="policies",
    needed=1,
)


def repository_of(database: Database, cipher: Cipher, **changed: Any) -> ApprovalRepository:
    times = {"lifetime": timedelta(hours=1), "retention": timedelta(days=1), **changed}
    return ApprovalRepository(database, cipher, SystemClock(), **times)


@pytest.fixture
async def approvals(database: Database, cipher: Cipher) -> ApprovalRepository:
    await database.collection("approvals").delete_many({})
    return repository_of(database, cipher)


def decision(number: int, verdict: Verdict = Verdict.APPROVE) -> Decision:
    return Decision(f"{number:024x}", f"boss{number}", verdict, SystemClock().now(), "seen")


async def opened(approvals: ApprovalRepository, call: RequestedCall = CALL) -> Approval:
    approval, _ = await approvals.open(call, ANNA)
    return approval


async def approved(approvals: ApprovalRepository, call: RequestedCall = CALL) -> Approval:
    found = await approvals.decide(await opened(approvals, call), decision(1))
    assert found is not None
    assert found.state is ApprovalState.APPROVED
    return found


@pytest.mark.requirement("R-226")
async def test_the_same_call_is_the_same_request_and_any_other_is_another(
    approvals: ApprovalRepository,
) -> None:
    first, is_new = await approvals.open(CALL, ANNA)
    assert is_new
    many = await asyncio.gather(*(approvals.open(CALL, ANNA) for _ in range(20)))
    assert {(found.id, was_new) for found, was_new in many} == {(first.id, False)}

    others = [
        replace(CALL, arguments={**CALL.arguments, "cents": 12345678901234567891}),
        replace(CALL, definition_hash="other"),
        replace(CALL, policy_version="other"),
        replace(CALL, needed=2),
        replace(CALL, tool="refund"),
        replace(CALL, server_id=OTHER_ID),
    ]
    ids = {(await opened(approvals, other)).id for other in others}
    bob, _ = await approvals.open(CALL, replace(ANNA, user_id="b" * 24))
    assert len({first.id, bob.id, *ids}) == len(others) + 2


def test_a_digest_depends_on_values_and_not_on_the_order_of_names() -> None:
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})
    assert digest_of({"a": [1, 2]}) != digest_of({"a": [2, 1]})
    assert digest_of({"a": "1"}) != digest_of({"a": 1})


async def test_arguments_are_sealed_for_their_document_alone(
    approvals: ApprovalRepository, database: Database
) -> None:
    one, two = await opened(approvals), await opened(approvals, replace(CALL, tool="refund"))
    assert approvals.arguments_of(one) == '{"to":"bob","cents":12345678901234567890}'
    rows = await database.collection("approvals").find({}).to_list()
    assert all(row["arguments"].startswith("gcm:") for row in rows)
    with pytest.raises(DecryptionError):
        approvals.arguments_of(two.model_copy(update={"arguments": one.arguments}))


@pytest.mark.requirement("E-20")
async def test_of_a_hundred_approvers_at_once_one_decides(approvals: ApprovalRepository) -> None:
    approval = await opened(approvals)
    found = await asyncio.gather(
        *(
            approvals.decide(approval, decision(n, Verdict.DENY if n % 2 else Verdict.APPROVE))
            for n in range(100)
        )
    )
    (decided,) = [one for one in found if one is not None]
    assert len(decided.decisions) == 1
    assert decided.state in {ApprovalState.APPROVED, ApprovalState.DENIED}


async def test_two_people_must_approve_where_two_are_needed(
    approvals: ApprovalRepository,
) -> None:
    approval = await opened(approvals, replace(CALL, needed=2))
    once = await approvals.decide(approval, decision(1))
    assert once is not None
    assert once.state is ApprovalState.PENDING
    assert await approvals.claim(approval.id, "worker") is None
    assert await approvals.decide(once, decision(1)) is None
    twice = await approvals.decide(once, decision(2))
    assert twice is not None
    assert (twice.state, twice.approvals) == (ApprovalState.APPROVED, 2)


async def test_an_approved_call_is_claimed_once_and_its_answer_handed_over_once(
    approvals: ApprovalRepository, database: Database
) -> None:
    approval = await approved(approvals)
    claims = await asyncio.gather(*(approvals.claim(approval.id, f"w{n}") for n in range(50)))
    (claimed,) = [one for one in claims if one is not None]
    assert claimed.worker is not None
    assert await approvals.store_result(approval.id, "other", "{}", is_error=False) is None
    stored = await approvals.store_result(approval.id, claimed.worker, "secret", is_error=False)
    assert stored is not None
    assert "secret" not in str(await database.collection("approvals").find_one({}))
    assert await approvals.take_result(approval.id, "b" * 24) is None
    taken = await asyncio.gather(
        *(approvals.take_result(approval.id, ANNA.user_id) for _ in range(20))
    )
    assert [one for one in taken if one is not None] == ["secret"]
    assert (await opened(approvals)).id != approval.id


async def test_what_is_unknown_is_never_claimed_again(approvals: ApprovalRepository) -> None:
    approval = await approved(approvals)
    assert await approvals.claim(approval.id, "worker")
    unknown = await approvals.mark_unknown(approval.id, "worker", "The process ended.")
    assert unknown is not None
    assert await approvals.claim(approval.id, "worker") is None
    assert (await opened(approvals)).id == approval.id
    assert await approvals.tell(approval.id, ANNA.user_id)
    assert await approvals.store_result(approval.id, "worker", "{}", is_error=False) is None
    assert (await opened(approvals)).id != approval.id


async def test_the_result_of_a_process_that_was_given_up_counts_until_that_was_reported(
    approvals: ApprovalRepository,
) -> None:
    approval = await approved(approvals)
    assert await approvals.claim(approval.id, "slow")
    assert await approvals.abandoned(timedelta(minutes=1)) == []
    (abandoned,) = await approvals.abandoned(timedelta(seconds=-1))
    assert abandoned.id == approval.id
    assert await approvals.mark_unknown(approval.id, "slow", "The process ended.")
    assert await approvals.store_result(approval.id, "other", "{}", is_error=False) is None
    stored = await approvals.store_result(approval.id, "slow", "{}", is_error=False)
    assert stored is not None
    assert (stored.state, stored.reason) == (ApprovalState.EXECUTED, None)


async def test_a_claim_of_which_nothing_was_sent_can_be_taken_back(
    approvals: ApprovalRepository,
) -> None:
    approval = await approved(approvals)
    assert await approvals.claim(approval.id, "one")
    assert await approvals.release(approval.id, "two") is None
    assert await approvals.release(approval.id, "one")
    assert await approvals.claim(approval.id, "two")


async def test_a_call_that_could_not_be_sent_is_due_again_when_its_requester_asks(
    approvals: ApprovalRepository,
) -> None:
    approval = await approved(approvals)
    assert [one.id for one in await approvals.due(None)] == [approval.id]
    assert await approvals.due([]) == []
    assert await approvals.claim(approval.id, "one")
    put_off = await approvals.release(approval.id, "one", "The server is away.")
    assert put_off is not None
    assert put_off.is_put_off
    assert await approvals.due([approval.id]) == []
    again = await approvals.try_again(approval.id)
    assert again is not None
    assert not again.is_put_off
    assert [one.id for one in await approvals.due([approval.id])] == [approval.id]
    assert await approvals.try_again(approval.id) is None


@pytest.mark.parametrize("state", [ApprovalState.CANCELLED, ApprovalState.VOID])
async def test_a_request_that_ended_is_neither_decided_nor_claimed(
    approvals: ApprovalRepository, state: ApprovalState
) -> None:
    pending = await opened(approvals)
    ended = await approvals.end(pending, state, "why")
    assert ended is not None
    assert ended.reason == "why"
    assert await approvals.decide(pending, decision(1)) is None
    done = await approved(approvals, replace(CALL, tool="refund"))
    assert await approvals.end(done, state)
    assert await approvals.claim(done.id, "worker") is None
    assert (await opened(approvals)).id != pending.id


async def test_a_request_that_expired_is_neither_decided_nor_claimed(
    database: Database, cipher: Cipher, approvals: ApprovalRepository
) -> None:
    late = repository_of(database, cipher, lifetime=timedelta(seconds=-1))
    approval = await opened(late)
    assert approval.state_at(await late.now()) is ApprovalState.EXPIRED
    for state, ids in (
        (ApprovalState.PENDING, []),
        (ApprovalState.APPROVED, []),
        (ApprovalState.EXPIRED, [approval.id]),
    ):
        listed = await approvals.page(ApprovalFilter(state=state), None, 10)
        assert [one.id for one in listed] == ids
    assert await approvals.decide(approval, decision(1)) is None
    assert (await opened(approvals)).id != approval.id
    in_time = await approved(approvals, replace(CALL, tool="refund"))
    await database.collection("approvals").update_many(
        {}, {"$set": {"expires_at": await late.now() - timedelta(seconds=1)}}
    )
    assert await approvals.claim(in_time.id, "worker") is None


async def test_pages_of_requests_made_at_once_neither_lose_nor_repeat_one(
    approvals: ApprovalRepository, database: Database
) -> None:
    await opened(approvals)
    one = await database.collection("approvals").find_one({})
    assert one is not None
    copies = [{**one, "_id": ObjectId(), "live_binding": str(number)} for number in range(300)]
    await database.collection("approvals").insert_many(copies)

    pages = [await approvals.page(ApprovalFilter(), None, 70)]
    while pages[-1]:
        last = pages[-1][-1]
        pages.append(await approvals.page(ApprovalFilter(), (last.created_at, last.id), 70))

    ids = [request.id for page in pages for request in page]
    assert len(ids) == len(set(ids)) == 301
    assert [len(page) for page in pages] == [70, 70, 70, 70, 21, 0]


async def test_one_unreadable_document_costs_only_itself(
    approvals: ApprovalRepository, database: Database
) -> None:
    good = await opened(approvals)
    odd = {**(await database.collection("approvals").find_one({}) or {}), "requester": {}}
    odd |= {"_id": ObjectId(), "live_binding": "other"}
    await database.collection("approvals").insert_one(odd)
    found = await approvals.page(ApprovalFilter(state=ApprovalState.PENDING), None, 10)
    assert [one.id for one in found] == [good.id]
    older = await approvals.page(ApprovalFilter(), (good.created_at, good.id), 10)
    assert older == []


async def test_keys_can_be_rotated_under_waiting_requests(
    approvals: ApprovalRepository, database: Database
) -> None:
    from registry.operations.rotation import rotate

    approval = await opened(approvals)
    newer = Cipher("9" * 64, CREDS_IV, previous_keys=[CREDS_KEY])
    await rotate(database, newer)
    alone = repository_of(database, Cipher("9" * 64, CREDS_IV))
    found = await alone.get(approval.id)
    assert found is not None
    assert alone.arguments_of(found) == '{"to":"bob","cents":12345678901234567890}'
