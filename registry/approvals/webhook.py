"""Tells a receiver of the operator's how requests for approval go, as Standard Webhooks says.

Each change of a request's state leaves a notice in its document, in the same update. Every process
looks for notices that are due; who puts one off by a guarded update sends it. So each is sent at
least once, by one process at a time, and in order for each request. It says nothing of arguments
and results.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta

import structlog

from packages.database.errors import DatabaseUnavailable
from packages.models.states import ApprovalState
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import Notice
from registry.core.clock import Clock
from registry.core.json import JsonObject, dump_text
from registry.core.webhook_signatures import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    signature,
)

log = structlog.get_logger()

LOOK_SECONDS = 2.0
"""Pause between two looks for notices that are due."""

MAX_UNDER_WAY = 8

PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (30, 60, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600)
)
"""After each attempt, the time until the next one: longer than an attempt takes. After as many
failures a notice is given up."""

Send = Callable[[bytes, Mapping[str, str]], Awaitable[str | None]]
"""Posts a body with headers, and returns why it was not accepted; None if it was."""


class ApprovalWebhook:
    """Delivers notices.

    Args:
        approvals: Keeps them.
        send: Posts to the receiver.
        secret: Shared with the receiver: `whsec_` and base64.
    """

    def __init__(
        self, approvals: ApprovalRepository, send: Send, secret: str, *, clock: Clock
    ) -> None:
        self._approvals = approvals
        self._send = send
        self._secret = secret
        self._clock = clock

    async def follow(self) -> None:
        """Deliver what is due, for ever. Survives database outages."""
        while True:
            try:
                await self.deliver_due()
            except DatabaseUnavailable:
                log.debug("approval_webhook_waits_for_database")
            await self._clock.sleep(LOOK_SECONDS)

    async def deliver_due(self) -> None:
        """Send each request's first notice that is due.

        Raises:
            DatabaseUnavailable: What is due cannot be read.
        """
        due = await self._approvals.due_notices()
        places = asyncio.Semaphore(MAX_UNDER_WAY)

        async def deliver(notice: Notice) -> None:
            async with places:
                # One that was sent and could not be removed is sent again.
                with suppress(DatabaseUnavailable):
                    await self._deliver(notice)

        async with asyncio.TaskGroup() as group:
            for notice in due:
                group.create_task(deliver(notice))

    async def _deliver(self, notice: Notice) -> None:
        is_last = notice.attempts + 1 >= len(PAUSES)
        pause = PAUSES[min(notice.attempts, len(PAUSES) - 1)]
        if not await self._approvals.claim_notice(notice, pause):
            return
        failure = await self._post(notice)
        if failure is not None:
            log.warning(
                "approval_webhook_failed",
                approval_id=notice.approval.id,
                state=notice.state.value,
                attempt=notice.attempts + 1,
                is_given_up=is_last,
                error=failure,
            )
        if failure is None or is_last:
            await self._approvals.end_notice(notice)

    async def _post(self, notice: Notice) -> str | None:
        message_id = f"msg_{notice.id}"
        sent_at = str(int(self._clock.now().timestamp()))
        body = dump_text(message_of(notice))
        return await self._send(
            body,
            {
                "content-type": "application/json",
                ID_HEADER: message_id,
                TIME_HEADER: sent_at,
                SIGNATURE_HEADER: signature(message_id, sent_at, body, self._secret),
            },
        )


def message_of(notice: Notice) -> JsonObject:
    """Return the body of a message."""
    approval = notice.approval
    data: JsonObject = {
        "id": approval.id,
        "state": notice.state.value,
        "server_id": approval.server_id,
        "server_name": approval.server_name,
        "tool": approval.tool,
        "requester": {
            "user_id": approval.requester.user_id,
            "username": approval.requester.username,
        },
        "approvals": approval.approvals,
        "approvals_required": approval.needed,
        "created_at": approval.created_at.isoformat(),
        "expires_at": approval.expires_at.isoformat(),
    }
    if notice.state is approval.state and notice.state is not ApprovalState.PENDING:
        data |= {"reason": approval.reason} if approval.reason else {}
    if approval.tenant_id is not None:
        data["tenant_id"] = approval.tenant_id
    return {
        "type": f"approval.{notice.state.value}",
        "timestamp": notice.at.isoformat(),
        "data": data,
    }
