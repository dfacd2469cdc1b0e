"""Preset arguments: what clients see of a tool some of whose arguments are fixed. Pure.

Preset arguments are hidden from clients: they are not in the schema that is served. The tool's own
schema still decides about each call, with the preset arguments in it; here it is only checked
whether the presets alone could match, so that an entry that never works is shown as such.
"""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import orjson

from registry.access.toolsets.values import ToolsetEntry
from registry.core.json import JsonObject, dump_text, load_text, members

MAX_SCHEMA_BYTES = 64 * 1024
"""Longest schema of one argument that is compiled here; a longer one decides about calls only."""

PATTERN_BYTES = 64 * 1024
PATTERNS = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)
"""Regular expressions that match in linear time."""

BRANCHES = ("allOf", "anyOf", "oneOf")
NAMING_MORE = frozenset(
    (
        *BRANCHES,
        *("$ref", "$dynamicRef", "if", "dependentSchemas", "dependencies"),
        *("additionalProperties", "unevaluatedProperties", "patternProperties"),
    )
)
"""Keywords by which a schema has arguments that its `properties` do not name."""

MAX_DEPTH = 8
"""How deep in combinations of schemas hidden arguments are removed."""


def preset_problem(definition: Mapping[str, Any], presets: Mapping[str, Any]) -> str | None:
    """Return why preset arguments cannot match a tool's schema; None if they may.

    Args:
        definition: The tool's whole object, as it is served.
        presets: The arguments.
    """
    schema = members(definition.get("inputSchema"))
    properties = members(schema.get("properties"))
    for name, value in presets.items():
        own = properties.get(name)
        if own is None:
            if _names_all(schema):
                return f"arguments.{name}: the tool has no such argument"
            continue
        problem = _mismatch(own, value)
        if problem is not None:
            return f"arguments.{name}: {problem}"
    return None


def _names_all(schema: JsonObject) -> bool:
    """Whether a tool's schema names all of its arguments, as far as can be seen.

    A schema that says nothing of other ones allows them. But a preset that the tool does not know
    does nothing, and leaves the argument that was meant to the caller.
    """
    if schema.get("additionalProperties") is False:
        return "patternProperties" not in schema
    return bool(members(schema.get("properties"))) and schema.keys().isdisjoint(NAMING_MORE)


def _mismatch(schema: Any, value: Any) -> str | None:
    """Return what keyword of an argument's schema a value violates; None for none known."""
    try:
        text = orjson.dumps(schema)
        # References lead out of this part of the schema; the check of each call follows them.
        if len(text) > MAX_SCHEMA_BYTES or b'"$' in text:
            return None
        validator = jsonschema_rs.validator_for(
            schema, pattern_options=PATTERNS, validate_formats=False
        )
        error = next(iter(validator.iter_errors(value)), None)
    except (ValueError, RecursionError, OverflowError):
        return None
    if error is None:
        return None
    path = [str(part) for part in error.schema_path]
    return f"does not match {'/'.join(path) or 'the schema'} of the tool's definition"


def presented(definition: bytes, entry: ToolsetEntry, name: str, hidden: frozenset[str]) -> bytes:
    """Return the text of a tool's object as clients of a toolset see it.

    Everything else in it, unknown members and exact numbers included, stays as it is.

    Args:
        definition: The text as the server's own path serves it.
        entry: Says what differs.
        name: What clients call it.
        hidden: The arguments that are preset.
    """
    tool = load_text(definition)
    tool["name"] = name
    if entry.title is not None:
        tool["title"] = entry.title
        annotations = tool.get("annotations")
        if isinstance(annotations, dict) and "title" in annotations:
            tool["annotations"] = {**annotations, "title": entry.title}
    if entry.description is not None:
        tool["description"] = entry.description
    if hidden:
        tool["inputSchema"] = without(members(tool.get("inputSchema")), hidden)
    return dump_text(tool)


def without(schema: JsonObject, hidden: frozenset[str], depth: int = 0) -> JsonObject:
    """Return a schema that does not name the arguments *hidden*."""
    result = dict(schema)
    properties = result.get("properties")
    if isinstance(properties, dict):
        result["properties"] = {n: part for n, part in properties.items() if n not in hidden}
    required = result.get("required")
    if isinstance(required, list):
        left = [one for one in required if one not in hidden]
        if left:
            result["required"] = left
        else:
            del result["required"]
    dependent = result.get("dependentRequired")
    if isinstance(dependent, dict):
        result["dependentRequired"] = {
            n: [one for one in needed if one not in hidden] if isinstance(needed, list) else needed
            for n, needed in dependent.items()
            if n not in hidden
        }
    for keyword in ("dependencies", "dependentSchemas"):
        parts = result.get(keyword)
        if isinstance(parts, dict):
            result[keyword] = {
                n: [one for one in part if one not in hidden] if isinstance(part, list) else part
                for n, part in parts.items()
                if n not in hidden
            }
    if depth < MAX_DEPTH:
        for branch in BRANCHES:
            parts = result.get(branch)
            if isinstance(parts, list):
                result[branch] = [
                    without(part, hidden, depth + 1) if isinstance(part, dict) else part
                    for part in parts
                ]
    return result
