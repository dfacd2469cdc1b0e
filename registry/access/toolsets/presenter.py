"""Toolsets in the form of responses and of the audit trail. Pure."""

from collections.abc import Mapping
from datetime import datetime

from registry.access.policies.values import PolicyEditor
from registry.access.policy import Permission
from registry.access.presenter import present_flags
from registry.access.toolsets.values import Resolution, Toolset, ToolsetEntry, ToolsetSeen
from registry.core.json import JsonObject, JsonValue, load_text
from registry.core.text import timestamp


def present_toolset(seen: ToolsetSeen, resolution: Resolution | None = None) -> JsonObject:
    """Return a toolset in the form of responses.

    Preset values are shown to those who may change them; others see the names alone.

    Args:
        seen: The toolset, and the rights of who asks.
        resolution: What it serves to them now; None if that is unknown.
    """
    record, toolset = seen.record, seen.record.toolset
    shows_presets = bool(seen.bits & Permission.EDIT)
    return {
        "id": toolset.id,
        "path": f"/mcp/toolsets/{toolset.name}",
        **present_content(toolset, shows_presets=shows_presets),
        "scope": toolset.scope.value,
        "author": toolset.author,
        "permissions": {**present_flags(seen.bits)},
        "tools": None if resolution is None else _tools(resolution),
        "problems": None if resolution is None else _problems(resolution.problems),
        "etag": record.etag,
        "created_at": _moment(record.created_at),
        "created_by": _person(record.created_by),
        "updated_at": _moment(record.updated_at),
        "updated_by": _person(record.updated_by),
    }


def present_content(toolset: Toolset, *, shows_presets: bool = True) -> JsonObject:
    """Return what people say in a toolset."""
    callers = toolset.default_for
    return {
        "name": toolset.name,
        "title": toolset.title,
        "description": toolset.description,
        "entries": [_entry(entry, shows_presets=shows_presets) for entry in toolset.entries],
        "default_for": {
            "users": [*callers.users],
            "roles": [*callers.roles],
            "tokens": [*callers.tokens],
            "clients": [*callers.clients],
        },
    }


def recorded(toolset: Toolset) -> JsonObject:
    """Return a toolset for the audit trail, which keeps no values of arguments."""
    return present_content(toolset, shows_presets=False)


def _entry(entry: ToolsetEntry, *, shows_presets: bool) -> JsonObject:
    found: JsonObject = {}
    if entry.server_id is not None:
        found["server"] = entry.server_id
    for name, value in (("tool", entry.tool), ("tag", entry.tag)):
        if value is not None:
            found[name] = value
    if entry.metadata:
        found["metadata"] = dict(entry.metadata)
    for name, value in (
        ("name", entry.name),
        ("title", entry.title),
        ("description", entry.description),
    ):
        if value is not None:
            found[name] = value
    if entry.arguments:
        presets = load_text(entry.arguments)
        if shows_presets:
            found["arguments"] = presets
        else:
            found["hidden_arguments"] = [*sorted(presets)]
    if entry.version is not None:
        found["version"] = entry.version
    return found


def _tools(resolution: Resolution) -> list[JsonValue]:
    return [
        {
            "name": tool.name,
            "server_id": tool.server_id,
            "server_name": tool.server_name,
            "tool": tool.tool,
            "entry": tool.entry,
        }
        for tool in resolution.tools
    ]


def _problems(problems: Mapping[int, tuple[str, ...]]) -> list[JsonValue]:
    return [
        {"entry": number, "message": message}
        for number in sorted(problems)
        for message in problems[number]
    ]


def _moment(value: datetime | None) -> str | None:
    return None if value is None else timestamp(value)


def _person(person: PolicyEditor | None) -> JsonObject | None:
    if person is None:
        return None
    return {"user_id": person.user_id, "username": person.username}
