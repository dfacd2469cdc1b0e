"""Approvals at the gateway: calls that people must approve wait here, and get what became of them.

Nothing is forwarded from here. A call opens a request, or finds the live one of the same caller,
tool and arguments; once enough people have approved it, any process executes it
(`gateway.approved_calls`), and the result is handed over once, to whichever call of the requester
comes for it. Clients of the handshake's era are held on an event stream; those of the stateless
era repeat the call with a sealed state. Later calls fetch the result by the same arguments, or by
the request's id. See docs/decisions/0059-approved-calls.md.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mcp_types import CLIENT_INFO_META_KEY

from packages.database.errors import DatabaseUnavailable
from packages.models.states import ApprovalState, Verdict
from registry.approvals.repository import ApprovalRepository
from registry.approvals.service import ApprovalService
from registry.approvals.values import Approval, RequestedCall
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.json import JsonObject, dump_text, load_text, members
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.client_sessions import client_name
from registry.gateway.edge.error_responses import META_PREFIX, result_body
from registry.gateway.edge.questions import ClientQuestions, streams
from registry.gateway.edge.request_states import RequestStates
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import (
    ApprovalPending,
    ApprovalRefused,
    CallOutcome,
    InvalidParams,
    RequestCancelled,
    TooManyQuestions,
)
from registry.gateway.protocol import era_translation
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.headers import TOOLSET_HEADER
from registry.gateway.protocol.messages import INPUT_REQUIRED
from registry.gateway.transport.call_watch import TookTooLong
from registry.gateway.transport.early_stream import EarlyStream
from registry.gateway.values import Route, ToolEntry
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.gateway.view.offering import CombinedOffering, with_public_links
from registry.servers.values import Era
from registry.upstream.messages import notification_text

APPROVAL_META_KEY = f"{META_PREFIX}approval"
"""Member of a call's `_meta` that names the request whose result it fetches."""

KIND = "approval"
"""Kind of the state that clients of the stateless era repeat a waiting call with."""

ROUND_SECONDS = 25.0
"""How long one request waits whose client can be sent nothing before its answer: in the stateless
era, and where it accepts no event stream. Proxies end silent requests after 30 s or more."""

MAX_ROUNDS = 9
"""How often a client of the stateless era repeats a call that waits; the SDKs do so 10 times."""

PROGRESS_SECONDS = 15.0
"""How long the event stream of a waiting call is silent."""

STATE_GRACE = timedelta(minutes=1)
"""How long after the last round a client may still repeat its call."""

WAITING = frozenset({ApprovalState.PENDING, ApprovalState.APPROVED, ApprovalState.EXECUTING})


@dataclass(frozen=True, slots=True)
class ApprovalTimes:
    """How long calls wait for people.

    Attributes:
        wait_seconds: Over all rounds of a call.
        round_seconds: See `ROUND_SECONDS`.
        progress_seconds: See `PROGRESS_SECONDS`.
    """

    wait_seconds: float
    round_seconds: float = ROUND_SECONDS
    progress_seconds: float = PROGRESS_SECONDS


@dataclass(slots=True)
class _WaitingCall:
    """A call that waits.

    Attributes:
        approval: Its request, as it was read last.
        is_retried: Whether this call had its execution tried again.
        reports: Number of progress notifications that were sent.
    """

    exchange: GatewayRequest
    user: UserContext
    route: Route
    approval: Approval
    is_retried: bool = False
    reports: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be waited for."""
        approval = self.approval
        return approval.state not in WAITING or (approval.is_put_off and self.is_retried)


class ApprovalGate:
    """Answers calls that people must approve.

    Args:
        approvals: Opens and cancels requests.
        repository: Reads them, and hands results over.
        notices: Reports changes of requests.
        questions: Holds calls, and begins event streams.
        states: Seals what clients of the stateless era bring back.
        admission: Knows the policies, and what callers see.
        times: How long calls wait.
    """

    def __init__(
        self,
        approvals: ApprovalService,
        repository: ApprovalRepository,
        notices: ApprovalNotices,
        questions: ClientQuestions,
        states: RequestStates,
        admission: Admission,
        clock: Clock,
        times: ApprovalTimes,
    ) -> None:
        self._approvals = approvals
        self._repository = repository
        self._notices = notices
        self._questions = questions
        self._states = states
        self._admission = admission
        self._clock = clock
        self._times = times

    async def answer(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        route: Route,
        tool: ToolEntry,
        arguments: Mapping[str, Any],
    ) -> None:
        """Wait for people, and answer the call with what became of it.

        Raises:
            ApprovalPending: They took too long; the error names the request.
            ApprovalRefused: The call will not be made, or nobody knows whether it was.
            Refusal: Waiting has no purpose any more.
            ClientGone: The client disconnected. The request stays open.
        """
        requested = self._requested(exchange, envelope, route, tool, arguments)
        approval = await self._found(exchange, user, requested)
        call = _WaitingCall(exchange, user, route, approval)
        exchange.outcome = CallOutcome.AWAITING_APPROVAL
        if not call.is_over:
            if approval.is_put_off:
                await self._repository.try_again(approval.id)
                self._notices.note(approval.id)
            call.is_retried = True
            with self._notices.watch(approval.id) as changed:
                if not await self._waited(call, changed):
                    return
        await self._finish(call)

    async def knows(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        route: Route,
        tool: ToolEntry,
        arguments: Mapping[str, Any],
    ) -> bool:
        """Whether a call has a request already: whatever comes before that was done for it.

        Raises:
            DatabaseUnavailable: That cannot be known now.
        """
        requested = self._requested(exchange, envelope, route, tool, arguments)
        handle = _handle(exchange)
        if handle is None:
            return await self._repository.find_live(requested.binding(user.user_id)) is not None
        found = await self._repository.get(handle) if isinstance(handle, str) else None
        return (
            found is not None
            and found.requester.user_id == user.user_id
            and found.binding == requested.binding(user.user_id)
        )

    def _requested(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        route: Route,
        tool: ToolEntry,
        arguments: Mapping[str, Any],
    ) -> RequestedCall:
        if "task" in envelope.params:
            raise InvalidParams(
                "A call that people must approve cannot be a task; send it without params.task."
            )
        if not envelope.is_canonical:
            # As they will be sent: another parser rounds large numbers.
            exact = members(load_text(envelope.raw).get("params"))
            arguments = members(exact.get("arguments"))
        return RequestedCall(
            server_id=route.server_id,
            server_name=route.server_name,
            tenant_id=route.facts.tenant_id,
            tool=tool.name,
            called_as=str(envelope.params["name"]),
            path=str(exchange.scope["path"]),
            definition_hash=definition_hash(tool),
            arguments=arguments,
            policy_version=self._admission.policy_version(route.server_id, tool.name),
            needed=tool.rules.approvals,
            toolset=exchange.headers.get(TOOLSET_HEADER),
            client_name=_client_name(exchange),
        )

    async def _found(
        self, exchange: GatewayRequest, user: UserContext, requested: RequestedCall
    ) -> Approval:
        """Return the request that a call names, or the live one for the same call, or a new one.

        Raises:
            ApprovalRefused: It names one that is not for this call.
        """
        handle = _handle(exchange)
        if handle is None:
            return await self._approvals.request(requested, user)
        found = await self._repository.get(handle) if isinstance(handle, str) else None
        if found is None or found.requester.user_id != user.user_id:
            raise ApprovalRefused(
                "There is no such request for approval of yours. Call the tool without "
                f'params._meta["{APPROVAL_META_KEY}"] to open one.',
                {"tool": requested.tool},
            )
        if (found.server_id, found.tool) != (requested.server_id, requested.tool):
            raise _refused(found, "is for another tool, and nothing was sent")
        if found.arguments_digest != requested.arguments_digest:
            raise _refused(
                found,
                "is for other arguments, and nothing was sent. To make a call with these, send it "
                f'without params._meta["{APPROVAL_META_KEY}"]: it needs an approval of its own',
            )
        return found

    async def _waited(self, call: _WaitingCall, changed: asyncio.Event) -> bool:
        """Wait for people; return whether to answer, or False if the client was told to repeat.

        Raises:
            ApprovalPending: They took too long.
            Refusal: Waiting has no purpose any more.
        """
        exchange = call.exchange
        rounds, since = 0, self._clock.now()
        state = exchange.states.get(KIND)
        if state is not None:
            rounds, since = int(state[1]), datetime.fromisoformat(state[2])
        waited = (self._clock.now() - since).total_seconds()
        # A clock that was set back since the first round, or is behind that of the process that
        # had it, makes nobody wait longer.
        left = self._times.wait_seconds - max(0.0, waited)
        is_streamed = not exchange.is_modern and streams(exchange)
        seconds = left if is_streamed else min(left, self._times.round_seconds)
        if seconds <= 0:
            raise _pending(call.approval)
        try:
            with self._questions.hold(exchange, call.user, seconds):
                stream = await self._questions.stream(exchange) if is_streamed else None
                await self._until_over(call, changed, stream)
        except TooManyQuestions:
            raise _pending(call.approval) from None
        except RequestCancelled:
            # One that is being executed, or has ended, stays as it is.
            with suppress(RegistryError, DatabaseUnavailable):
                await self._approvals.cancel(call.approval.id, call.user)
            raise
        except TookTooLong:
            left -= seconds
            if not exchange.is_modern or rounds >= MAX_ROUNDS - 1 or left <= 0:
                raise _pending(call.approval) from None
            await self._ask_to_repeat(call, rounds + 1, since, left)
            return False
        return True

    async def _until_over(
        self, call: _WaitingCall, changed: asyncio.Event, stream: EarlyStream | None
    ) -> None:
        # What changed before the watch began was not reported.
        is_stale = True
        await _report(call, stream)
        while True:
            if is_stale:
                is_stale = not await self._read(call)
            if call.is_over:
                return
            try:
                async with asyncio.timeout(self._times.progress_seconds):
                    await changed.wait()
            except TimeoutError:
                await _report(call, stream)
            else:
                changed.clear()
                is_stale = True

    async def _read(self, call: _WaitingCall) -> bool:
        """Read the request again; return whether that was possible."""
        try:
            found = await self._repository.get(call.approval.id)
        except DatabaseUnavailable:
            return False
        if found is None:
            raise _refused(call.approval, "does not exist any more")
        call.approval = found
        return True

    async def _ask_to_repeat(
        self, call: _WaitingCall, rounds: int, since: datetime, seconds_left: float
    ) -> None:
        exchange = call.exchange
        content = [call.approval.id, rounds, since.isoformat()]
        lifetime = timedelta(seconds=seconds_left) + STATE_GRACE
        result: JsonObject = {
            "resultType": INPUT_REQUIRED,
            "requestState": self._states.seal(exchange, KIND, content, lifetime),
        }
        assert exchange.request_id is not None  # noqa: S101 - only requests are calls
        await exchange.answer(200, result_body(result, exchange.request_id))

    async def _finish(self, call: _WaitingCall) -> None:
        """Answer the call of a request that is over, and say so once.

        Raises:
            ApprovalRefused: The call was not made, or nobody knows.
            ApprovalPending: It may still be made.
        """
        approval = call.approval
        if approval.state is ApprovalState.EXECUTED:
            stored = await self._repository.take_result(approval.id, call.user.user_id)
            if stored is None:
                raise _refused(
                    approval,
                    "was executed, and its result was handed over before. Call the tool again "
                    "without naming it to ask for another approval",
                )
            await self._deliver(call, stored)
            return
        if approval.state in WAITING:
            raise _pending(approval)
        await self._repository.tell(approval.id, call.user.user_id)
        raise _refused(approval, _said(approval))

    async def _deliver(self, call: _WaitingCall, stored: str) -> None:
        """Send a result in the terms of the client's era and path."""
        exchange, body = call.exchange, load_text(stored)
        answer = members(body["answer"])
        if (body["era"] == Era.MODERN.value) is not exchange.is_modern:
            answer = _translated(answer, is_modern=exchange.is_modern)
        raw = dump_text({"jsonrpc": "2.0", "id": exchange.request_id, **answer})
        if exchange.output_check is not None:
            raw = exchange.output_check(raw)
        if not exchange.slug:
            # Another server's links look like its own on the combined path.
            offering = CombinedOffering(self._admission.view(call.user))
            edit = with_public_links(offering, call.route)
            raw = raw if edit is None else edit(raw)
        status = 200
        if exchange.is_modern and "error" in answer:
            status = era_translation.status_of(members(answer["error"]))
        await exchange.answer(status, raw)


def definition_hash(tool: ToolEntry) -> str:
    """Return the SHA-256 of the definition that callers are offered, in hexadecimal."""
    return hashlib.sha256(tool.wire).hexdigest()


def _client_name(exchange: GatewayRequest) -> str | None:
    if not exchange.is_modern:
        return exchange.client_name
    return client_name(members(members(exchange.params.get("_meta")).get(CLIENT_INFO_META_KEY)))


def _handle(exchange: GatewayRequest) -> object:
    """Return the id of the request that a call names; None if it names none."""
    state = exchange.states.get(KIND)
    if state is not None:
        return state[0]
    return members(exchange.params.get("_meta")).get(APPROVAL_META_KEY)


def _translated(answer: JsonObject, *, is_modern: bool) -> JsonObject:
    method = "tools/call"
    if is_modern:
        if "error" in answer:
            return {"error": era_translation.to_modern_error(answer["error"])}
        return {"result": era_translation.to_modern_result(method, answer.get("result"))}
    if "error" in answer:
        return {"error": era_translation.to_legacy_error(method, answer["error"])}
    return {"result": era_translation.to_legacy_result(answer.get("result"))}


async def _report(call: _WaitingCall, stream: EarlyStream | None) -> None:
    """Send a progress notification if the client asked for them, else a comment."""
    if stream is None:
        return
    token = members(call.exchange.params.get("_meta")).get("progressToken")
    if token is None:
        await stream.keep_alive()
        return
    call.reports += 1
    approval = call.approval
    message = f"Waiting for approval {approval.id} ({approval.approvals} of {approval.needed})"
    params: JsonObject = {"progressToken": token, "progress": call.reports, "message": message}
    await stream.message(notification_text("notifications/progress", params))


def _facts(approval: Approval) -> dict[str, object]:
    return {
        "tool": approval.tool,
        "approval": approval.id,
        "state": approval.state.value,
        "expires_at": approval.expires_at.isoformat(),
    }


def _pending(approval: Approval) -> ApprovalPending:
    """Return what a call gets whose request is open."""
    if approval.is_put_off:
        said = f"is approved, but the call could not be made yet: {approval.reason}"
    elif approval.state is ApprovalState.PENDING:
        missing = approval.needed - approval.approvals
        people = "1 person has" if missing == 1 else f"{missing} people have"
        said = f"waits: {people} to approve it"
    else:
        said = "is approved, and being executed"
    return ApprovalPending(
        f"The request {approval.id} for approval of this call of {approval.tool} {said}. It ends "
        f"at {approval.expires_at:%Y-%m-%d %H:%M:%S} UTC. To get the result, call the tool again "
        f'with the same arguments, or also with params._meta["{APPROVAL_META_KEY}"] = '
        f'"{approval.id}"; each approved call is made once.',
        _facts(approval),
    )


def _refused(approval: Approval, said: str) -> ApprovalRefused:
    return ApprovalRefused(
        f"The request {approval.id} for approval of a call of {approval.tool} {said}.",
        _facts(approval),
    )


def _said(approval: Approval) -> str:
    """Return what became of a request that is over without a result."""
    reason = f": {approval.reason}" if approval.reason else ""
    match approval.state:
        case ApprovalState.DENIED:
            by = next(
                (one.username for one in approval.decisions if one.verdict is Verdict.DENY), ""
            )
            return f"was denied by {by or 'an approver'}, and nothing was sent{reason}"
        case ApprovalState.EXPIRED:
            return "has expired, and nothing was sent. Call the tool again to ask for another"
        case ApprovalState.CANCELLED:
            return f"was cancelled, and nothing was sent{reason}"
        case ApprovalState.UNKNOWN:
            return (
                "was approved, but nobody knows whether the call was made or what it returned"
                f"{reason}. It is not made again by itself: find out before you repeat it"
            )
        case _:
            return f"is void, and nothing was sent{reason}. Call the tool again to ask for another"
