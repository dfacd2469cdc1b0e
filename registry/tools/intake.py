"""Intake: validate an upstream's tools, and report the problem of each rejected one. Pure."""

import hashlib
import json
import re
import sys
from collections.abc import Sequence

import jsonschema_rs
from cachetools import LRUCache
from pydantic import JsonValue

from registry.core.definitions import (
    MAX_DEPTH,
    TOO_DEEP,
    DecodeBudget,
    Fitting,
    Listed,
    Rejection,
    RejectionError,
    UnreadableDefinition,
    definition_text,
)
from registry.core.json import JsonObject, canonical_json, members, nesting
from registry.core.schema_bounds import excess
from registry.tools.values import ToolDefinition, ToolSnapshot

NAME = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")
"""The characters of names in MCP, and `/`, which servers use in practice."""

MAX_DESCRIPTION_BYTES = 64 * 1024
MAX_DEFINITION_BYTES = 1024 * 1024
SHOWN_CHARACTERS = 128
LISTED_TWICE = "is listed twice; the first entry is used"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

TEXT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
MAX_REMEMBERED = 2_000
"""Maximum number of tools in a list that is cached: longer ones would evict each other, and keep
other parsed data in memory."""

PARSED_TIMES = 32
"""Approximate factor between a text and the memory of its parsed value."""


def _weight(tool: ToolDefinition) -> int:
    """Return the approximate number of bytes for caching a tool."""
    texts = (tool.definition, tool.input_schema, tool.output_schema, tool.description)
    parsed = 0 if tool.annotations is None else len(TEXT.encode(tool.annotations))
    return sum(sys.getsizeof(text) for text in texts) + PARSED_TIMES * parsed


TAKEN: LRUCache[str, ToolDefinition] = LRUCache(12 * 1024 * 1024, getsizeof=_weight)
"""Cache of validated tools, by their text: most discoveries find what the one before found."""


def take(
    raw_tools: Sequence[Listed], fitting: Fitting | None = None, max_bytes: int | None = None
) -> ToolSnapshot:
    """Return the valid and the rejected tools, in the upstream's order.

    Args:
        raw_tools: Objects as received.
        fitting: A further check; None for tools that were stored before.
        max_bytes: Limit for all definitions together; tools beyond it are rejected.
    """
    left = DecodeBudget(max_bytes)
    taken: dict[str, ToolDefinition] = {}
    rejected: list[Rejection] = []
    for raw in raw_tools:
        try:
            tool = _remembered(raw, fitting, is_kept=len(raw_tools) <= MAX_REMEMBERED)
        except RejectionError as exc:
            rejected.append(Rejection(_shown_name(raw), str(exc)))
            continue
        if tool.name in taken:
            rejected.append(Rejection(tool.name, LISTED_TWICE))
        elif not left.take(tool.definition):
            rejected.append(Rejection(tool.name, left.reason))
        else:
            taken[tool.name] = tool
    return ToolSnapshot(tuple(taken.values()), tuple(rejected))


def _remembered(raw: Listed, fitting: Fitting | None, *, is_kept: bool) -> ToolDefinition:
    """Validate a tool, or return the result from the cache."""
    if isinstance(raw, UnreadableDefinition):
        raise RejectionError(raw.reason)
    try:
        text = TEXT.encode(raw)
    except (ValueError, RecursionError):
        # The problem is reported below.
        text = ""
    tool = TAKEN.get(text)
    if tool is not None:
        return tool
    tool = _definition(raw)
    if fitting is not None:
        problem = fitting("tools", members(raw))
        if problem is not None:
            raise RejectionError(problem)
        if is_kept and _weight(tool) <= TAKEN.maxsize:
            TAKEN[tool.definition] = tool
    return tool


def _definition(raw: JsonValue) -> ToolDefinition:
    if not isinstance(raw, dict):
        raise RejectionError("is not an object")
    name = _name(raw.get("name"))
    description = _text(raw, "description")
    title = _text(raw, "title")
    if nesting(raw, MAX_DEPTH) > MAX_DEPTH:
        raise RejectionError(TOO_DEEP)
    definition = definition_text(raw, MAX_DEFINITION_BYTES)
    schema = _schema(raw.get("inputSchema"), "inputSchema")
    output = raw.get("outputSchema")
    annotations = raw.get("annotations")
    return ToolDefinition(
        name=name,
        title=title,
        description=description,
        definition=definition,
        input_schema=schema,
        output_schema=None if output is None else _schema(output, "outputSchema"),
        annotations=annotations if isinstance(annotations, dict) else None,
        discovery_hash=hashlib.sha256(canonical_json(raw).encode()).hexdigest(),
    )


def _name(value: JsonValue) -> str:
    if not isinstance(value, str) or not value:
        raise RejectionError("has no name")
    if not NAME.fullmatch(value):
        raise RejectionError(
            "has a name that is longer than 128 characters or contains others than letters, "
            "digits, `_`, `-`, `.` and `/`"
        )
    return value


def _text(raw: JsonObject, member: str) -> str | None:
    value = raw.get(member)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RejectionError(f"has a {member} that is not a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise RejectionError(f"has a {member} with invalid Unicode") from None
    if size > MAX_DESCRIPTION_BYTES:
        raise RejectionError(f"has a {member} of more than {MAX_DESCRIPTION_BYTES} bytes")
    return value


def _schema(value: JsonValue, member: str) -> str:
    if not isinstance(value, dict):
        raise RejectionError(f"has no {member} object")
    if member == "inputSchema" and value.get("type") != "object":
        raise RejectionError('has an inputSchema whose type is not "object"')
    dialect = value.get("$schema")
    if not isinstance(dialect, str | None):
        raise RejectionError(f"has an {member} whose $schema is not a string")
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        # Validated with the dialect's meta-schema alone, so nothing is ever retrieved.
        known = {"$schema": dialect if dialect in KNOWN_DIALECTS else DIALECT}
        jsonschema_rs.meta.validate({**value, **known})
    except jsonschema_rs.ValidationError as exc:
        reason = exc.message[:SHOWN_CHARACTERS]
        raise RejectionError(f"has an invalid {member}: {reason}") from None
    except (ValueError, RecursionError, OverflowError):
        raise RejectionError(f"has an invalid {member}") from None
    too_much = excess(value)
    if too_much is not None:
        raise RejectionError(f"has an {member} with {too_much}")
    return text


KNOWN_DIALECTS = frozenset(
    {
        DIALECT,
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-04/schema#",
    }
)


def _shown_name(raw: Listed) -> str:
    known = raw.members if isinstance(raw, UnreadableDefinition) else members(raw)
    name = known.get("name")
    text = name if isinstance(name, str) else ""
    printable = "".join(item if item.isprintable() else "?" for item in text[:SHOWN_CHARACTERS])
    return printable.encode(errors="replace").decode()
