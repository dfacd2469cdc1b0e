"""What the audit trail says of decisions about a tool, as its history tells it. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from registry.audit.values import AuditAction, AuditRecord
from registry.core.json import JsonObject, members
from registry.tools.happenings import Happening, ToolEvent
from registry.tools.lifecycle import ACTIVE, DELETED, DISABLED, DRAFT, SELECTED, UNSELECTED, Actor

BY_ACTION: Mapping[str, Happening] = {
    AuditAction.ACCEPT.value: Happening.ACCEPTED,
    AuditAction.REJECT.value: Happening.REJECTED,
    AuditAction.ROLLBACK.value: Happening.ROLLED_BACK,
}
BY_REGISTRATION: Mapping[object, Happening] = {
    SELECTED.value: Happening.SELECTED,
    UNSELECTED.value: Happening.UNSELECTED,
}
BY_EXPOSURE: Mapping[object, Happening] = {
    ACTIVE.value: Happening.EXPOSED,
    DRAFT.value: Happening.WITHDRAWN,
    DISABLED.value: Happening.DISABLED,
}
SAID = ("display_name", "description", "metadata", "tags")
VERSIONS = ("served_version", "pending_version")


def decided_event(record: AuditRecord) -> ToolEvent:
    """Return what a record about a tool tells of its life."""
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
    """Return the first of the *records* about a server, the newest first, that found a tool."""
    return next((record for record in reversed(records) if _found(record, name)), None)


def _what(action: str, before: JsonObject, after: JsonObject) -> Iterator[str]:
    if action in BY_ACTION:
        yield BY_ACTION[action].value
    exposure = after.get("exposure_state")
    if exposure == DELETED.value:
        # That it is not selected any more goes without saying.
        yield Happening.DELETED.value
    elif before.get("exposure_state") == DELETED.value:
        yield Happening.RESTORED.value
    else:
        registration = after.get("registration_state")
        if registration in BY_REGISTRATION:
            yield BY_REGISTRATION[registration].value
        if exposure in BY_EXPOSURE and not (
            exposure == DRAFT.value and registration == UNSELECTED.value
        ):
            yield BY_EXPOSURE[exposure].value
    if any(name in after for name in SAID):
        yield Happening.EDITED.value


def _others(said: JsonObject) -> JsonObject:
    return {name: value for name, value in said.items() if name not in VERSIONS}


def _found(record: AuditRecord, name: str) -> bool:
    tools = members(record.changes.get("tools"))
    names, count = tools.get("added"), tools.get("added_count")
    if not isinstance(names, list) or not isinstance(count, int):
        return False
    # Of very many a record names the first only.
    return name in names or count > len(names)
