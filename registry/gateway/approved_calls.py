"""Approved calls: each is made once, by whichever process is first, for the one who requested it.

Everything that the approval is bound to is checked again, with the requester as they are now; then
the request is claimed by a guarded update, and only then anything is sent. The answer is stored
sealed, and fetched through `edge.approvals`. What a process that ended may have sent is declared
unknown and never sent again. Runs in the background of every process; does not know who waits.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import structlog

from packages.database.errors import DatabaseUnavailable
from packages.models.states import ApprovalState, AuditOutcome
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import Approval
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import SYNCHRONISER, UserContext
from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.core.errors import RegistryError
from registry.core.json import JsonObject, dump_text, members
from registry.core.origin import PROCESS
from registry.gateway.client.asks import Ask, Conversation
from registry.gateway.client.connector import Connector
from registry.gateway.client.conversations import converse
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.approval_bindings import (
    ApprovalBindings,
    NoLongerHolds,
    PreparedCall,
    request_of,
)
from registry.gateway.edge.budgets import Budgets
from registry.gateway.edge.error_responses import refusal_for
from registry.gateway.edge.recorder import CALL, Recorder
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import (
    BudgetExceeded,
    CallOutcome,
    CredentialsRejected,
    MethodUnknown,
    NoJsonRpcAnswer,
    Refusal,
    UpstreamAnswered,
    UpstreamTimedOut,
    Wait,
)
from registry.gateway.ports import Refusals
from registry.gateway.protocol.era_translation import wants_input
from registry.gateway.protocol.messages import Message, MessageKind
from registry.gateway.transport.failures import SERVER_ERROR
from registry.gateway.values import Credentials
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.servers.values import Era

log = structlog.get_logger()

MAX_AT_ONCE = 20
"""Maximum number of approved calls that one process makes at once."""

SWEEP_SECONDS = 10.0
"""How often a process says that it runs, and looks for what others have left."""

SETTLED = timedelta(seconds=10)
"""Age from which an undecided request is looked at; before that it may be bound to what this
process has yet to hear of."""

SILENCE = timedelta(seconds=60)
"""After which an execution is taken for abandoned: several times as long."""

STORE_AGAIN_SECONDS = 1.0
MAX_STORE_ATTEMPTS = 600
"""How long an answer is kept in memory while the database cannot store it: ten minutes."""

MAX_RESULT_BYTES = 4 * 1024 * 1024
"""Longest answer that is stored. Sealed it takes twice as much, and a document at most 16 MB."""

TOO_LONG = (
    f"The call was made, but its answer is longer than {MAX_RESULT_BYTES} bytes: it is lost."
)
ASKS_FOR_INPUT = (
    "The server asked for input during the call, which nobody gives to an approved call. It may "
    "have made a part of it."
)
NO_SUPPORT = "Nobody answers questions during approved calls."


class NotSent(Exception):  # noqa: N818 - an event, not an error
    """The call could not be sent; the server has received nothing of it."""


class OutcomeUnknown(Exception):  # noqa: N818 - an event, not an error
    """The call was sent, and there is no answer."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer to a call: the member `result` or `error` of a response, in the server's era."""

    era: Era
    body: JsonObject

    @property
    def is_error(self) -> bool:
        """Whether the call failed."""
        return "error" in self.body or members(self.body.get("result")).get("isError") is True

    @property
    def text(self) -> str:
        """Return the answer as it is stored."""
        return dump_text({"era": self.era.value, "answer": self.body}).decode()


class ApprovedCalls:
    """Makes approved calls.

    Args:
        repository: Claims requests, and stores what became of them.
        notices: Reports requests that may be due.
        admission: Decides again what the requester may do, and supplies credentials.
        connector: Sends.
        recorder: Records each call that is made.
        records: Receives records for the audit trail.
        drain: Signals that nothing new may begin.
        budgets: Put calls off that would cost too much by now; None for none.
        worker: Names this process in claims; no other process ever has the name.
        total_seconds: Longest time for one call.
        silence: After which executions of others are taken for abandoned.
        sweep_seconds: See `SWEEP_SECONDS`.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        repository: ApprovalRepository,
        notices: ApprovalNotices,
        admission: Admission,
        connector: Connector,
        recorder: Recorder,
        records: Refusals,
        drain: Drain,
        clock: Clock,
        *,
        budgets: Budgets | None = None,
        worker: str,
        total_seconds: float,
        silence: timedelta = SILENCE,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._repository = repository
        self._notices = notices
        self._admission = admission
        self._bindings = ApprovalBindings(repository, admission)
        self._connector = connector
        self._recorder = recorder
        self._records = records
        self._drain = drain
        self._clock = clock
        self._budgets = budgets
        self._worker = worker
        self._total_seconds = total_seconds
        self._silence = silence
        self._sweep_seconds = sweep_seconds
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._under_way: set[str] = set()

    async def follow(self) -> None:
        """Make approved calls as they become due, for ever. Survives database outages."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep(group))
            while True:
                changed = await self._notices.changed()
                if changed is None or changed:
                    await self._begin_due(group, changed)

    async def _begin_due(self, group: asyncio.TaskGroup, changed: frozenset[str] | None) -> None:
        try:
            due = await self._repository.due(changed)
        except DatabaseUnavailable:
            # The next sweep finds them.
            return
        for approval in due:
            if approval.id not in self._under_way and not self._drain.has_begun:
                self._under_way.add(approval.id)
                group.create_task(self._execute(approval))

    async def _sweep(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._clock.sleep(self._sweep_seconds)
            try:
                await self.sweep()
            except DatabaseUnavailable:
                continue
            await self._begin_due(group, None)

    async def sweep(self) -> None:
        """Say that this process runs, and end what others have left.

        Raises:
            DatabaseUnavailable: The next sweep does it.
        """
        if self._under_way:
            await self._repository.keep_alive(self._worker, sorted(self._under_way))
        for approval in await self._repository.expired():
            ended = await self._repository.end(approval, ApprovalState.EXPIRED)
            self._ended(ended, SYNCHRONISER, None, AuditOutcome.DENIED)
        for approval in await self._repository.abandoned(self._silence):
            reason = "the process that made the call ended meanwhile"
            await self._declare_unknown(approval, reason)
        for state in (ApprovalState.PENDING, ApprovalState.APPROVED):
            for approval in await self._repository.in_state(state):
                await self._end_if_void(approval)

    async def _end_if_void(self, approval: Approval) -> None:
        """End a request that nobody could be served by: its people need not find out first."""
        is_due = approval.state is ApprovalState.APPROVED and not approval.is_put_off
        if is_due or self._clock.now() - approval.created_at < SETTLED:
            return
        try:
            await self._bindings.check(approval)
        except NoLongerHolds as problem:
            await self._void(approval, problem)
        except Refusal:
            # This process cannot tell now: its view of the servers is outdated.
            return
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("approval_check_failed", approval_id=approval.id)

    async def _void(self, approval: Approval, problem: NoLongerHolds) -> None:
        ended = await self._repository.end(approval, ApprovalState.VOID, str(problem))
        self._ended(ended, SYNCHRONISER, str(problem), AuditOutcome.DENIED)

    async def _execute(self, approval: Approval) -> None:
        """Make an approved call, unless another process does. Raises nothing but cancellations."""
        try:
            async with self._places:
                await self._claim_and_send(approval)
        except DatabaseUnavailable:
            log.warning("approved_call_delayed", approval_id=approval.id)
        except Exception:
            # Before the claim, the next sweep tries again; after it, the silence tells.
            log.exception("approved_call_failed", approval_id=approval.id)
        finally:
            self._under_way.discard(approval.id)

    async def _claim_and_send(self, approval: Approval) -> None:
        try:
            prepared = await self._bindings.prepared(approval)
        except NoLongerHolds as problem:
            await self._void(approval, problem)
            return
        except Refusal:
            # This process cannot decide now: its view of the servers is outdated.
            return
        claimed = await self._claim(prepared)
        if claimed is None:
            return
        exchange = self._exchange(prepared)
        self._recorder.started(exchange)
        self._recorder.understood(exchange, {"name": approval.called_as})
        asks: list[Ask] = []
        try:
            answer = await self._answer(prepared, exchange, asks)
        except NotSent as problem:
            self._ended_exchange(exchange, CallOutcome.UPSTREAM_ERROR)
            await self._repository.release(approval.id, self._worker, str(problem))
            self._notices.note(approval.id)
        except OutcomeUnknown as problem:
            self._ended_exchange(exchange, CallOutcome.TIMEOUT)
            await self._declare_unknown(claimed, str(problem))
        except asyncio.CancelledError:
            self._ended_exchange(exchange, CallOutcome.UNAVAILABLE)
            if asks and asks[-1].is_sent:
                await self._declare_unknown(claimed, "the registry shut down during the call")
            else:
                await self._repository.release(approval.id, self._worker)
            raise
        else:
            exchange.client.tail = dump_text({"jsonrpc": "2.0", "id": 0, **answer.body})
            exchange.client.sent_bytes = len(exchange.client.tail)
            self._ended_exchange(exchange, CallOutcome.OK)
            await self._store(claimed, prepared.user, answer)

    async def _claim(self, prepared: PreparedCall) -> Approval | None:
        """Claim a call; return None if another process does, or a budget is spent by now.

        Raises:
            DatabaseUnavailable: Perhaps it is claimed.
        """
        approval_id = prepared.approval.id
        claimed = await self._repository.claim(approval_id, self._worker)
        if claimed is None or self._budgets is None:
            return claimed
        try:
            self._budgets.check(prepared.user, prepared.tool)
        except BudgetExceeded as problem:
            await self._repository.release(approval_id, self._worker, problem.message)
            self._notices.note(approval_id)
            return None
        return claimed

    def _exchange(self, prepared: PreparedCall) -> GatewayRequest:
        """Return the request that records of the call are made from; nobody waits for it."""
        exchange = request_of(prepared.approval)
        exchange.method = CALL
        exchange.user = prepared.user
        exchange.served_by(prepared.route)
        exchange.tool, exchange.tool_entry = prepared.tool.name, prepared.tool
        exchange.is_modern = Era.MODERN in prepared.route.eras
        exchange.request_bytes = len(dump_text(prepared.arguments))
        return exchange

    def _ended_exchange(self, exchange: GatewayRequest, outcome: CallOutcome) -> None:
        exchange.outcome = outcome
        self._recorder.ended(exchange)

    async def _answer(
        self, prepared: PreparedCall, exchange: GatewayRequest, asks: list[Ask]
    ) -> _Answer:
        """Make the call; once more with a renewed token if the server refuses the first.

        Args:
            prepared: The call.
            exchange: What records of it are made from.
            asks: Receives what is sent.

        Raises:
            NotSent: The server has received nothing, or rejected the credentials.
            OutcomeUnknown: It has, and did not answer.
        """
        user, route = prepared.user, prepared.route
        try:
            sent = await self._admission.credentials(route, user)
        except (Refusal, RegistryError, DatabaseUnavailable) as exc:
            raise NotSent(_message(exc)) from None
        self._recorder.forwarding(exchange)
        is_renewed = False
        while True:
            ask = _ask(prepared, sent)
            asks.append(ask)
            exchange.client.sent = (sent.headers, route)
            try:
                async with asyncio.timeout(self._total_seconds):
                    return await self._conversed(ask, exchange)
            except CredentialsRejected as rejected:
                try:
                    sent = await self._admission.other_credentials(
                        route, user, sent, rejected, is_renewed=is_renewed
                    )
                except (Refusal, RegistryError, DatabaseUnavailable) as exc:
                    raise NotSent(_message(exc)) from None
                is_renewed = True
            except TimeoutError:
                _failed(ask, UpstreamTimedOut(route.named, Wait.END))
            except Refusal as refusal:
                if ask.is_sent and _has_answered(refusal):
                    return _said(ask.era, refusal.message)
                _failed(ask, refusal)

    async def _conversed(self, ask: Ask, exchange: GatewayRequest) -> _Answer:
        conversation = await converse(self._connector, ask)
        exchange.client.answered()
        try:
            while True:
                try:
                    message = await conversation.next()
                except ValueError:
                    return _said(ask.era, "The server sent an invalid message.")
                if message.kind is MessageKind.ANSWER:
                    return _read(conversation.era, message)
                if message.kind is MessageKind.REQUEST:
                    await _decline(conversation, message)
        finally:
            await self._connector.leave(conversation)

    async def _store(self, approval: Approval, user: UserContext, answer: _Answer) -> None:
        """Store an answer; while the database is away, try again."""
        text = answer.text
        if len(text) > MAX_RESULT_BYTES:
            answer = _said(answer.era, TOO_LONG)
            text = answer.text
        for _ in range(MAX_STORE_ATTEMPTS):
            try:
                stored = await self._repository.store_result(
                    approval.id, self._worker, text, is_error=answer.is_error
                )
            except DatabaseUnavailable:
                await self._clock.sleep(STORE_AGAIN_SECONDS)
                continue
            if stored is None:
                log.warning("approved_call_result_lost", approval_id=approval.id)
            outcome = AuditOutcome.FAILED if answer.is_error else AuditOutcome.SUCCESS
            self._ended(stored, user, None, outcome)
            return
        log.warning("approved_call_result_lost", approval_id=approval.id)

    async def _declare_unknown(self, approval: Approval, reason: str) -> None:
        unknown = await self._repository.mark_unknown(
            approval.id, approval.worker or self._worker, reason
        )
        self._ended(unknown, SYNCHRONISER, reason, AuditOutcome.FAILED)

    def _ended(
        self,
        approval: Approval | None,
        actor: UserContext,
        reason: str | None,
        outcome: AuditOutcome,
    ) -> None:
        """Record the end of a request, and wake what waits for it; None if it did not end."""
        if approval is None:
            return
        event = AuditEvent(
            AuditAction.CALL if approval.started_at else AuditAction.UPDATE,
            EntityType.APPROVAL,
            approval.id,
            {"tool": approval.tool, "state": approval.state.value},
            outcome=outcome,
            reason=reason,
            server_id=approval.server_id,
        )
        self._records.note_later(actor, event, PROCESS)
        self._notices.note(approval.id)


def _ask(prepared: PreparedCall, sent: Credentials) -> Ask:
    route, tool, user = prepared.route, prepared.tool, prepared.user
    return Ask(
        route=route,
        era=Era.MODERN if Era.MODERN in route.eras else Era.LEGACY,
        method=CALL,
        params={"name": tool.name, "arguments": prepared.arguments},
        is_exact=False,
        credentials=sent.headers if route.per_user else route.headers.copy(),
        passed_on={},
        # Whoever could be asked something may not be there any more.
        capabilities={},
        tool=tool,
        user_id=user.user_id if route.is_user_level else None,
        owner=SessionOwner(user.principal, user=None if route.oauth is None else user),
    )


def _read(era: Era, message: Message) -> _Answer:
    try:
        body = message.editable()
    except (ValueError, RecursionError):
        return _said(era, "The server sent an invalid message.")
    if wants_input(body):
        return _said(era, ASKS_FOR_INPUT)
    for member in ("result", "error"):
        if isinstance(body.get(member), dict):
            return _Answer(era, {member: body[member]})
    return _said(era, "The server sent an invalid message.")


async def _decline(conversation: Conversation, message: Message) -> None:
    """Answer a question of the server: with an error, unless it only asks for a sign of life."""
    answer: JsonObject = {"jsonrpc": "2.0", "id": message.body["id"]}
    if message.body.get("method") == "ping":
        answer["result"] = {}
    else:
        answer["error"] = {"code": MethodUnknown.code, "message": NO_SUPPORT}
    await conversation.reply(dump_text(answer))


def _said(era: Era, text: str) -> _Answer:
    """Return the answer of a call that failed."""
    result: JsonObject = {"content": [{"type": "text", "text": text}], "isError": True}
    if era is Era.MODERN:
        result["resultType"] = "complete"
    return _Answer(era, {"result": result})


def _has_answered(refusal: Refusal) -> bool:
    """Whether the server itself ended the call, though not as it should.

    A status above 500 may be that of something on the way, and the server still at work.
    """
    if isinstance(refusal, NoJsonRpcAnswer):
        return True
    return isinstance(refusal, UpstreamAnswered) and refusal.answered < SERVER_ERROR


def _failed(ask: Ask, refusal: Refusal) -> NoReturn:
    raise (OutcomeUnknown if ask.is_sent else NotSent)(refusal.message) from None


def _message(error: Exception) -> str:
    return error.message if isinstance(error, Refusal) else refusal_for(error).message
