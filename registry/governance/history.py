"""The life of a tool, newest first: what people decided and what readings of its upstream did.

Decisions are in the audit trail, what readings did is in the tool's own record; each is written
in the transaction of the change. That it was found is the record's own time: the first reading of
a server writes nothing for it.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from registry.audit.repository import AuditRepository
from registry.audit.values import AuditFilter, AuditOutcome, EntityType
from registry.core.cursor import Page, newest_page
from registry.governance.events import decided_event, has_found
from registry.governance.repository import GovernedTools
from registry.governance.values import GovernedTool
from registry.tools.happenings import Happening, ToolEvent
from registry.tools.lifecycle import Actor

FOUND_WITHIN = timedelta(minutes=3)
"""A record is written last in its transaction, which may be tried again for two minutes."""

RECORDS_LOOKED_AT = 20


class ToolHistory:
    """Reads what happened to tools."""

    def __init__(self, governed: GovernedTools, audit: AuditRepository) -> None:
        self._governed = governed
        self._audit = audit

    async def page(self, tool: GovernedTool, cursor: str | None, limit: int) -> Page[ToolEvent]:
        """Return up to *limit* events that are older than *cursor*, newest first.

        Raises:
            BadCursorError: *cursor* is none of ours.
        """

        async def read(before: tuple[datetime, str] | None, count: int) -> list[ToolEvent]:
            return await self._read(tool, before, count)

        return await newest_page(read, _place, cursor, limit, name="events_cursor")

    async def _read(
        self, tool: GovernedTool, before: tuple[datetime, str] | None, count: int
    ) -> list[ToolEvent]:
        about = AuditFilter(
            entity_type=EntityType.TOOL, entity_id=tool.id, outcome=AuditOutcome.SUCCESS
        )
        records = await self._audit.page(about, before, count)
        events = [decided_event(record) for record in records]
        others = await self._governed.sync_events(tool.id)
        if tool.created_at is not None:
            what = (Happening.DISCOVERED.value,)
            others.append(ToolEvent(tool.id, tool.created_at, what, Actor.SYNC.value))
        events += [event for event in others if before is None or _place(event) < before]
        events.sort(key=_place, reverse=True)
        return [await self._named(tool, event) for event in events[:count]]

    async def _named(self, tool: GovernedTool, event: ToolEvent) -> ToolEvent:
        """Return an event with who had the tool found, if it is that."""
        if event.id != tool.id:
            return event
        about = AuditFilter(
            entity_type=EntityType.SERVER,
            entity_id=tool.owner_id,
            outcome=AuditOutcome.SUCCESS,
            since=event.at,
            until=event.at + FOUND_WITHIN,
        )
        records = await self._audit.page(about, None, RECORDS_LOOKED_AT)
        record = has_found(records, tool.stored.name)
        if record is None:
            return event
        return replace(event, by={"user_id": record.user_id, "username": record.username})


def _place(event: ToolEvent) -> tuple[datetime, str]:
    return event.at, event.id
