"""Conversion of stored rows of `mcp_tools` to values, whatever they contain.

A validator keeps impossible states out of the database, but not everything else that another
program or a person may write. Values of an unexpected form are dropped, and a tool that cannot be
served without them is not served.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import product
from types import UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin

import orjson

from packages.database.changes import row_id
from packages.database.stored import (
    NotJsonError,
    id_of,
    json_of,
    moment_of,
    text_of,
    texts_of,
    whole_of,
)
from packages.models.states import ExposureState, RegistrationState
from packages.models.tools import JSON_OBJECT, RegisteredTool
from registry.core.json import JsonObject, members
from registry.core.search import searchable
from registry.tools.call_rules import MEMBERS
from registry.tools.exposure import SERVED
from registry.tools.lifecycle import State
from registry.tools.metadata import TAG, effects_of, facet
from registry.tools.presentation import overrides_in
from registry.tools.values import ListedTool, StoredTool, ToolDefinition, ToolRow, ToolTraits

Reader: TypeAlias = Callable[[object], object]

NEEDED = ("name", "registration_state", "exposure_state", "definition", "discovery_hash")
"""Members without which a row is no tool."""

UNREADABLE: State = (RegistrationState.UNSELECTED, ExposureState.DISABLED)
STATES_BY_TEXT: Mapping[tuple[str, str], State] = {
    (state[0].value, state[1].value): state for state in product(RegistrationState, ExposureState)
}
"""A look-up of both at once: every tool of the database has them."""


def fields_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the members of a row with the expected form, and the names of the others.

    Members without an entry in the table here are dropped.
    """
    fields: dict[str, Any] = {}
    wrong: list[str] = []
    for name, stored in row.items():
        reader = READERS.get(name)
        if reader is None or stored is None:
            continue
        value = reader(stored)
        if value is None:
            wrong.append(name)
        else:
            fields[name] = value
    return fields, wrong


def problems_of(row: Mapping[str, Any]) -> list[str]:
    """Return the problems of a whole row, one message each; empty for a valid one."""
    fields, wrong = fields_of(row)
    problems = [f"{name} cannot be read" for name in wrong]
    problems += [f"{name} is missing" for name in NEEDED if name not in {*fields, *wrong}]
    ids = ("_id", "owner_id")
    problems += [f"{name} is not an ObjectId" for name in ids if not id_of(row[name])]
    return problems


def stored_tool(row: Mapping[str, Any]) -> StoredTool:
    """Return a row as far as it was read; unreadable states count as those of a disabled tool."""
    fields, _ = fields_of(row)
    registration, exposure = states_in(row)
    values = {name: value for name, value in fields.items() if name in PLAIN}
    values |= {
        "id": str(row.get("_id", "")),
        "name": fields.get("name", ""),
        "owner_id": id_of(row.get("owner_id")) or "",
        "registration_state": registration,
        "exposure_state": exposure,
        "discovery_hash": fields.get("discovery_hash", ""),
        "is_reviewed": row.get("reviewed") is True,
        "is_blocked": row.get("blocked") is True,
        "overrides": overrides_in(fields),
    }
    return StoredTool(**values)


def served_tool(row: Mapping[str, Any]) -> ToolDefinition | None:
    """Return a tool as clients get it; None if its row is incomplete."""
    fields, _ = fields_of(row)
    name, definition = fields.get("name"), fields.get("presented") or fields.get("definition")
    if not name or definition is None or ("presented" in row and "presented" not in fields):
        return None
    return ToolDefinition(
        name=name,
        title=fields.get("display_name") or fields.get("title"),
        description=fields.get("description_override") or fields.get("description"),
        definition=definition,
        input_schema=fields.get("input_schema") or '{"type":"object"}',
        output_schema=None,
        annotations=None,
        discovery_hash=fields.get("discovery_hash", ""),
    )


def tool_row(row: Mapping[str, Any], owner_id: str) -> ToolRow | None:
    """Return a tool as the gateway and lists read it; None if its row is incomplete.

    Whether its definition is valid JSON is checked when the view takes it, unless that was checked
    before.
    """
    name = text_of(row.get("name"))
    definition = text_of(row["presented"] if "presented" in row else row.get("definition"))
    if not name or not definition:
        return None
    states = states_in(row)
    stored, tags = _texts(row.get("facets")), texts_of(row.get("tags"))
    facets = effects_of(stored, name, definition)
    text = searchable(
        [name],
        [row.get("display_name"), row.get("title")],
        tags,
        [row.get("description_override"), row.get("description")],
    )
    traits = ToolTraits(
        text_of(row.get("source_type")) or "mcp",
        *states,
        stored or (*facets, *(facet(TAG, tag) for tag in tags)),
    )
    return ToolRow(
        ListedTool(row_id(row["_id"]), owner_id, traits, text),
        name,
        definition,
        is_served=states == SERVED,
        is_behind="pending_hash" in row or "seen_hash" in row,
        facets=facets,
        said=call_members(row.get("tool_metadata")),
        version=whole_of(row.get("served_version")) or 1,
        tags=tuple(tags),
    )


def call_members(stored: object) -> Mapping[str, Any]:
    """Return what people stated that call rules are made from; most tools have none of it."""
    said = members(stored)
    return {name: said[name] for name in MEMBERS if name in said} if said else said


def states_in(row: Mapping[str, Any]) -> State:
    """Return the states of a tool; unreadable ones count as those of a disabled tool."""
    registration, exposure = row.get("registration_state"), row.get("exposure_state")
    if isinstance(registration, str) and isinstance(exposure, str):
        return STATES_BY_TEXT.get((registration, exposure), UNREADABLE)
    return UNREADABLE


def is_object_text(text: str) -> bool:
    """Whether a text is a JSON object that clients can parse."""
    try:
        return isinstance(orjson.loads(text), dict)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False


def json_text_of(stored: object) -> str | None:
    """Return a stored text that is a JSON object, or None."""
    text = text_of(stored)
    return text if text is not None and is_object_text(text) else None


def _texts(stored: object) -> tuple[str, ...] | None:
    """Return a stored list of texts; None for any other value."""
    if isinstance(stored, list) and all(isinstance(one, str) for one in stored):
        return tuple(stored)
    return None


def _object(stored: object) -> JsonObject | None:
    try:
        value = json_of(stored)
    except NotJsonError:
        return None
    return value if isinstance(value, dict) else None


def _reader_of(annotation: Any, metadata: Sequence[object]) -> Reader | None:
    """Return how a stored field of this type is read; None for fields that are read elsewhere."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = get_args(annotation)[0]
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if JSON_OBJECT in (*metadata, *arguments):
        return json_text_of
    if kind is list:
        return _texts if get_origin(arguments[0]) is not dict else None
    return next((read for base, read in READERS_BY_TYPE if issubclass(kind, base)), None)


READERS_BY_TYPE: Sequence[tuple[type, Reader | None]] = (
    (bool, None),
    (str, text_of),
    (int, whole_of),
    (datetime, moment_of),
    (dict, _object),
)
READERS: Mapping[str, Reader] = {
    name: reader
    for name, field in RegisteredTool.model_fields.items()
    if (reader := _reader_of(field.annotation, field.metadata)) is not None
}
"""How each field of a tool is read, by the type that its document declares."""
PLAIN = frozenset(READERS) & frozenset(field.name for field in dataclasses.fields(StoredTool))
"""Members of a row that a `StoredTool` has under the same names."""
