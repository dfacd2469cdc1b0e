"""What the operator's receiver is told of requests for approval, over HTTP."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pydantic import ValidationError

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import ApprovalState
from registry.approvals.repository import ApprovalRepository
from registry.approvals.webhook import PAUSES, ApprovalWebhook
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.settings import Settings
from registry.upstream.guard import UrlGuard
from registry.upstream.webhook import webhook_receiver
from tests.approvals.requests import requested
from tests.approvals.test_repository import CALL, decision, opened, repository_of
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import rest_settings, running
from tests.kit.waiting import until

pytestmark = pytest.mark.wire

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass(slots=True)
class Receiver:
    """Takes messages.

    Attributes:
        statuses: Of the next answers; 204 when there are no more.
        messages: Headers and body of what came.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    messages: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        with_reader = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in with_reader[1:])
            if name
        }
        body = await reader.readexactly(int(headers["content-length"]))
        self.messages.append((headers, body))
        status = self.statuses.pop(0) if self.statuses else 204
        where = "Location: http://127.0.0.1:1/\r\n" if status == 307 else ""
        answer = f"HTTP/1.1 {status} -\r\n{where}Content-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    @property
    def told(self) -> list[tuple[str, str]]:
        """Return the messages' ids and types, in the order in which they came."""
        return [
            (headers["webhook-id"], json.loads(body)["type"]) for headers, body in self.messages
        ]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    async with server:
        yield receiver


@asynccontextmanager
async def telling(
    approvals: ApprovalRepository, url: str, *allowed: str
) -> AsyncIterator[ApprovalWebhook]:
    async with webhook_receiver(UrlGuard(allowed), url, connect_timeout_seconds=2) as receiver:
        yield ApprovalWebhook(approvals, receiver.post, SECRET, clock=SystemClock())


@pytest.fixture
def approvals(database: Database, cipher: Cipher) -> ApprovalRepository:
    return repository_of(database, cipher, announces=True)


async def make_due(database: Database) -> None:
    """Let the time pass until a notice is sent again."""
    past = SystemClock().now() - timedelta(minutes=1)
    rows = database.collection("approvals")
    await rows.update_many({"notice_at": {"$exists": True}}, {"$set": {"notice_at": past}})


async def test_replicas_tell_each_change_once_in_order_and_signed(
    database: Database, cipher: Cipher, approvals: ApprovalRepository
) -> None:
    other = repository_of(database, cipher, announces=True)
    async with (
        receiving() as receiver,
        telling(approvals, receiver.url, "127.0.0.0/8") as one,
        telling(other, receiver.url, "127.0.0.0/8") as two,
    ):
        approval = await opened(approvals)
        await approvals.decide(approval, decision(1))
        await approvals.claim(approval.id, "worker")
        await approvals.store_result(approval.id, "worker", "{}", is_error=False)
        for _ in range(4):
            await asyncio.gather(one.deliver_due(), two.deliver_due())
        row = await database.collection("approvals").find_one({}) or {}

    ids, types = zip(*receiver.told, strict=True)
    assert types == ("approval.pending", "approval.approved", "approval.executed")
    assert len(set(ids)) == 3
    assert (row.get("notices"), row.get("notice_at")) == ([], None)
    for headers, body in receiver.messages:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        mac = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{mac}"
    data = json.loads(receiver.messages[0][1])["data"]
    assert (data["id"], data["state"], data["tool"]) == (approval.id, "pending", CALL.tool)
    assert data["requester"] == {"user_id": "a" * 24, "username": "anna"}
    assert b"12345678901234567890" not in b"".join(body for _, body in receiver.messages)


async def test_what_a_process_without_the_settings_decides_is_told_too(
    database: Database, cipher: Cipher, approvals: ApprovalRepository
) -> None:
    command = repository_of(database, cipher, announces=False)
    async with (
        receiving() as receiver,
        telling(approvals, receiver.url, "127.0.0.0/8") as webhook,
    ):
        approval = await opened(approvals)
        await webhook.deliver_due()
        await command.decide(approval, decision(1))
        await webhook.deliver_due()

    assert [kind for _, kind in receiver.told] == ["approval.pending", "approval.approved"]


async def test_requests_from_before_the_settings_are_not_told_of(
    database: Database, cipher: Cipher, approvals: ApprovalRepository
) -> None:
    silent = repository_of(database, cipher, announces=False)
    approval = await opened(silent)

    decided = await silent.decide(approval, decision(1))
    row = await database.collection("approvals").find_one({}) or {}

    assert decided is not None
    assert decided.state is ApprovalState.APPROVED
    assert not {"notices", "notice_at"} & row.keys()


@pytest.mark.parametrize("status", [500, 307, 410])
async def test_what_is_not_accepted_is_sent_again_with_the_same_id(
    database: Database, approvals: ApprovalRepository, status: int
) -> None:
    async with (
        receiving() as receiver,
        telling(approvals, receiver.url, "127.0.0.0/8") as webhook,
    ):
        receiver.statuses = [status]
        approval = await opened(approvals)
        await approvals.end(approval, ApprovalState.CANCELLED, "by its requester")
        await webhook.deliver_due()
        await webhook.deliver_due()
        before = list(receiver.told)
        for _ in range(3):
            await make_due(database)
            await webhook.deliver_due()

    (first,) = before
    assert receiver.told[:2] == [first, first]
    assert [kind for _, kind in receiver.told] == [
        "approval.pending",
        "approval.pending",
        "approval.cancelled",
    ]


async def test_what_is_never_accepted_is_given_up_and_what_follows_is_told(
    database: Database, approvals: ApprovalRepository
) -> None:
    async with (
        receiving() as receiver,
        telling(approvals, receiver.url, "127.0.0.0/8") as webhook,
    ):
        receiver.statuses = [500] * len(PAUSES)
        approval = await opened(approvals)
        await approvals.end(approval, ApprovalState.CANCELLED)
        for _ in range(len(PAUSES) + 2):
            await make_due(database)
            await webhook.deliver_due()

    kinds = [kind for _, kind in receiver.told]
    assert kinds == ["approval.pending"] * len(PAUSES) + ["approval.cancelled"]


async def test_a_receiver_at_an_address_that_may_not_be_contacted_gets_nothing(
    approvals: ApprovalRepository,
) -> None:
    async with receiving() as receiver, telling(approvals, receiver.url) as webhook:
        await opened(approvals)
        await webhook.deliver_due()

    assert receiver.messages == []


async def test_an_odd_notice_costs_no_other_one(
    database: Database, approvals: ApprovalRepository
) -> None:
    rows = database.collection("approvals")
    await database.db.command("collMod", "approvals", validator={})
    past = SystemClock().now() - timedelta(minutes=1)
    odd: list[Any] = [None, "text", [], [5], [{"id": 5}], [{"id": ObjectId(), "state": "odd"}]]
    await rows.insert_many([{"_id": ObjectId(), "notices": one, "notice_at": past} for one in odd])
    async with (
        receiving() as receiver,
        telling(approvals, receiver.url, "127.0.0.0/8") as webhook,
    ):
        await opened(approvals)
        await webhook.deliver_due()
        left = await rows.count_documents({"notice_at": {"$exists": True}})

    assert [kind for _, kind in receiver.told] == ["approval.pending"]
    assert left == 0


async def test_a_running_registry_tells_of_what_is_requested_and_denied(
    mongo_uri: str,
    key_files: tuple[Path, Path],
    tmp_path: Path,
    root: UserContext,
    alice: UserContext,
) -> None:
    async with receiving() as receiver:
        settings = rest_settings(
            mongo_uri,
            key_files,
            tmp_path,
            approval_webhook_url=receiver.url,
            approval_webhook_secret=SECRET,
        )
        async with running(settings) as rest, plain_upstream() as upstream:
            server = await rest.register(root, "bank", upstream.url, scope="shared_app")
            approval = await requested(rest, alice, server["id"], "echo")
            path = f"/approvals/{approval.id}/deny"
            denied = await rest.ask(root, "POST", path, json={"comment": "not today"})
            assert denied.status_code == 200, denied.text
            await until(lambda: len(receiver.messages) == 2)

    assert [kind for _, kind in receiver.told] == ["approval.pending", "approval.denied"]
    assert json.loads(receiver.messages[1][1])["data"]["reason"] == "not today"


@pytest.mark.parametrize(
    "given",
    [
        {"approval_webhook_url": "https://hooks.example/a"},
        {"approval_webhook_url": "ftp://hooks.example/a", "approval_webhook_secret": SECRET},
        {"approval_webhook_url": "https://a:b@hooks.example/", "approval_webhook_secret": SECRET},
        {"approval_webhook_url": "https://hooks.example/a", "approval_webhook_secret": "short"},
        {
            "approval_webhook_url": "https://hooks.example/a",
            "approval_webhook_secret": "whsec_YWI=",
        },
    ],
)
def test_a_receiver_that_cannot_be_told_is_refused_at_the_start(
    settings: Settings, given: dict[str, str]
) -> None:
    known = settings.model_dump(exclude_unset=True)

    with pytest.raises(ValidationError):
        Settings(**{**known, **given})
