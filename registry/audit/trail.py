"""Audit trail: records events on behalf of callers.

A change is recorded in its own transaction: without the record there is no change. Events that
change nothing are recorded separately. A full disk or an unavailable database may lose such a
record, which is logged and counted, because a refusal must not depend on its record.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

import structlog
from cachetools import TTLCache

from packages.database.batch import WriteBatch
from packages.database.client import Doc, Transaction
from packages.database.errors import DatabaseUnavailable
from packages.models.states import AuditOutcome
from registry.audit.errors import AuditUnwritableError
from registry.audit.repository import AuditRepository
from registry.audit.values import AuditEvent
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.core.origin import UrlOrigin, current_origin

log = structlog.get_logger()

FAILURES_A_MINUTE = 60
"""Failed attempts of one user that are recorded per minute; more are only counted, or a broken
program would fill the trail. Denials and changes are always recorded."""

REPEATED_SECONDS = 60.0
"""How long the same refusal of the gateway is not recorded again, because clients retry."""

CALLERS = 10_000
WAITING = 1_000
"""Maximum number of waiting refusals of the gateway; more are dropped and counted."""


class AuditTrail:
    """Records events on behalf of callers."""

    def __init__(self, repository: AuditRepository, *, clock: Clock, metrics: Metrics) -> None:
        self._repository = repository
        self._clock = clock
        self._lost = metrics.audit_records_dropped
        self._waiting: deque[Doc] = deque()
        self._failures: TTLCache[str, int] = TTLCache(CALLERS, 60.0, timer=clock.monotonic)
        self._repeated: TTLCache[tuple[str, str, str | None, str | None], None] = TTLCache(
            CALLERS, REPEATED_SECONDS, timer=clock.monotonic
        )
        self.written = asyncio.Event()
        """Set when there may be records to seal."""

    async def record(self, actor: UserContext, event: AuditEvent, tx: Transaction) -> None:
        """Record a change in its transaction. One round trip.

        Raises:
            AuditUnwritableError: It cannot be written, so the change must not be either.
        """
        await self._repository.insert(self._document(actor, event), tx)
        self.written.set()

    def add(self, actor: UserContext, event: AuditEvent, batch: WriteBatch) -> None:
        """Add the record of a change to a batch of its transaction's writes.

        `batch.send` raises AuditUnwritableError if it cannot be written.
        """
        self._repository.add(self._document(actor, event), batch)
        self.written.set()

    async def record_all(
        self, actor: UserContext, events: Sequence[AuditEvent], tx: Transaction
    ) -> None:
        """Record several changes in their transaction. One round trip.

        Raises:
            AuditUnwritableError: One cannot be written, so none of the changes must be either.
        """
        if events:
            documents = [self._document(actor, event) for event in events]
            await self._repository.insert_all(documents, tx)
            self.written.set()

    async def require(self, actor: UserContext, event: AuditEvent) -> None:
        """Record an event that may only happen if it is recorded, such as reading a secret.

        Raises:
            DatabaseUnavailable: The database is unreachable.
            AuditUnwritableError: The record cannot be written.
        """
        await self._repository.insert_alone([self._document(actor, event)])
        self.written.set()

    async def note(self, actor: UserContext, event: AuditEvent) -> None:
        """Record an event that happens even if the record is lost, such as a refusal."""
        await self.note_all(actor, [event])

    async def note_all(self, actor: UserContext, events: Iterable[AuditEvent]) -> None:
        """Record several events that happen even if records are lost. One round trip."""
        documents = [
            self._document(actor, event) for event in events if self._may_note(actor, event)
        ]
        if documents:
            await self._write(documents)

    def _may_note(self, actor: UserContext, event: AuditEvent) -> bool:
        if event.outcome is not AuditOutcome.FAILED:
            return True
        failures = self._failures.get(actor.user_id, 0) + 1
        self._failures[actor.user_id] = failures
        if failures > FAILURES_A_MINUTE:
            self._lost.inc()
            return False
        return True

    def note_later(self, actor: UserContext, event: AuditEvent, origin: UrlOrigin) -> None:
        """Queue an event of the gateway without waiting; `flush` writes it.

        A repeated refusal is left out for `REPEATED_SECONDS`; successful events never are.
        """
        if event.outcome is not AuditOutcome.SUCCESS:
            key = (actor.user_id, event.action.value, event.entity_id, event.reason)
            if key in self._repeated:
                return
            self._repeated[key] = None
        if len(self._waiting) >= WAITING:
            self._lost.inc()
            return
        document = self._repository.document(event, actor, origin, self._clock.now())
        self._waiting.append(document)
        self.written.set()

    async def flush(self) -> None:
        """Write all waiting records."""
        waiting = list(self._waiting)
        self._waiting.clear()
        if waiting:
            await self._write(waiting)

    async def _write(self, documents: list[Doc]) -> None:
        try:
            await self._repository.insert_alone(documents)
        except (DatabaseUnavailable, AuditUnwritableError):
            self._lost.inc(len(documents))
            log.warning("audit_records_dropped", count=len(documents))
            return
        self.written.set()

    def _document(self, actor: UserContext, event: AuditEvent) -> Doc:
        return self._repository.document(event, actor, current_origin.get(), self._clock.now())
