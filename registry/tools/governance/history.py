"""History of a tool, newest first: decisions of people and changes by syncs.

Decisions are in the audit trail, changes by syncs in the tool's own record; each is written in the
transaction of the change. The discovery of a tool is the creation time of its record: the first
sync of a server writes nothing else for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from packages.models.states import AuditOutcome
from registry.audit.repository import AuditRepository
from registry.audit.values import AuditAction, AuditFilter, AuditRecord, EntityType
from registry.core.cursor import CursorPage, newest_page
from registry.core.json import JsonObject, members
from registry.tools.governance.repository import GovernedTools
from registry.tools.lifecycle import ACTIVE, DELETED, DISABLED, DRAFT, SELECTED, UNSELECTED, Actor
from registry.tools.tool_events import ToolEvent, ToolEventType
from registry.tools.values import StoredTool

BY_ACTION: Mapping[str, ToolEventType] = {
    AuditAction.ACCEPT.value: ToolEventType.ACCEPTED,
    AuditAction.REJECT.value: ToolEventType.REJECTED,
    AuditAction.ROLLBACK.value: ToolEventType.ROLLED_BACK,
}
BY_REGISTRATION: Mapping[object, ToolEventType] = {
    SELECTED.value: ToolEventType.SELECTED,
    UNSELECTED.value: ToolEventType.UNSELECTED,
}
BY_EXPOSURE: Mapping[object, ToolEventType] = {
    ACTIVE.value: ToolEventType.EXPOSED,
    DRAFT.value: ToolEventType.UNEXPOSED,
    DISABLED.value: ToolEventType.DISABLED,
}
SAID = ("display_name", "description", "metadata", "tags")
VERSIONS = ("served_version", "pending_version")


def decided_event(record: AuditRecord) -> ToolEvent:
    """Return the event in the history of a tool for an audit record."""
    before, after = (members(record.changes.get(name)) for name in ("before", "after"))
    version = after.get("served_version") or before.get("pending_version")
    return ToolEvent(
        record.id,
        record.timestamp,
        tuple(_what(record.action, before, after)),
        Actor.OPERATOR.value,
        {"user_id": record.user_id, "username": record.username},
        version if isinstance(version, int) else None,
        _others(before),
        _others(after),
    )


def has_found(records: Sequence[AuditRecord], name: str) -> AuditRecord | None:
    """Return the first of the *records* about a server, newest first, that found a tool."""
    return next((record for record in reversed(records) if _found(record, name)), None)


def _what(action: str, before: JsonObject, after: JsonObject) -> Iterator[str]:
    if action in BY_ACTION:
        yield BY_ACTION[action].value
    exposure = after.get("exposure_state")
    if exposure == DELETED.value:
        # It implies that the tool is not selected any more.
        yield ToolEventType.DELETED.value
    elif before.get("exposure_state") == DELETED.value:
        yield ToolEventType.RESTORED.value
    else:
        registration = after.get("registration_state")
        if registration in BY_REGISTRATION:
            yield BY_REGISTRATION[registration].value
        if exposure in BY_EXPOSURE and not (
            exposure == DRAFT.value and registration == UNSELECTED.value
        ):
            yield BY_EXPOSURE[exposure].value
    if any(name in after for name in SAID):
        yield ToolEventType.EDITED.value


def _others(said: JsonObject) -> JsonObject:
    return {name: value for name, value in said.items() if name not in VERSIONS}


def _found(record: AuditRecord, name: str) -> bool:
    tools = members(record.changes.get("tools"))
    names, count = tools.get("added"), tools.get("added_count")
    if not isinstance(names, list) or not isinstance(count, int):
        return False
    # A record with very many tools names only the first ones.
    return name in names or count > len(names)


FOUND_WITHIN = timedelta(minutes=3)
"""A record is written last in its transaction, which may be retried for two minutes."""

RECORDS_LOOKED_AT = 20


class ToolHistoryReader:
    """Reads the events of tools."""

    def __init__(self, governed: GovernedTools, audit: AuditRepository) -> None:
        self._governed = governed
        self._audit = audit

    async def page(
        self, tool: StoredTool, cursor: str | None, limit: int
    ) -> CursorPage[ToolEvent]:
        """Return up to *limit* events that are older than *cursor*, newest first.

        Raises:
            BadCursorError: *cursor* was not issued here.
        """

        async def read(before: tuple[datetime, str] | None, count: int) -> list[ToolEvent]:
            return await self._read(tool, before, count)

        return await newest_page(read, _place, cursor, limit, name="events_cursor")

    async def _read(
        self, tool: StoredTool, before: tuple[datetime, str] | None, count: int
    ) -> list[ToolEvent]:
        about = AuditFilter(
            entity_type=EntityType.TOOL, entity_id=tool.id, outcome=AuditOutcome.SUCCESS
        )
        records = await self._audit.page(about, before, count)
        events = [decided_event(record) for record in records]
        others = await self._governed.sync_events(tool.id)
        if tool.created_at is not None:
            what = (ToolEventType.DISCOVERED.value,)
            others.append(ToolEvent(tool.id, tool.created_at, what, Actor.SYNC.value))
        events += [event for event in others if before is None or _place(event) < before]
        events.sort(key=_place, reverse=True)
        return [await self._named(tool, event) for event in events[:count]]

    async def _named(self, tool: StoredTool, event: ToolEvent) -> ToolEvent:
        """Return an event of a discovery with the user who started the sync; others unchanged."""
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
        record = has_found(records, tool.name)
        if record is None:
            return event
        return replace(event, by={"user_id": record.user_id, "username": record.username})


def _place(event: ToolEvent) -> tuple[datetime, str]:
    return event.at, event.id
