"""Projection: the fields of `mcpservers.config` that mirror `mcp_tools` for jarvis-api. Pure.

MongoDB drivers read a sub-document with a `$ref` key as a database reference, so schemas are
written here as jarvis-api writes them: local `$ref`s resolved, other `$` keywords dropped. The
canonical rows keep the schema's original text.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from registry.core.definitions import Rejection
from registry.core.json import JsonObject, members
from registry.tools.intake import take
from registry.tools.naming import DELIMITER, function_name, normalized_server_name
from registry.tools.values import ToolDefinition, ToolSnapshot

MAX_PROJECTION_BYTES = 8 * 1024 * 1024
"""Half of the maximum document size. Tools beyond it are omitted from `toolFunctions` only."""

MAX_DEPTH = 32
"""Deeper schemas, and recursive ones, end in an open object."""

MAX_RESOLVED_BYTES = 256 * 1024
"""Text that resolved references may add to one schema; those beyond it become open objects."""

REFERENCE_BYTES = 64
"""Added for each reference: small ones cost time too."""

BSON_INT_LIMIT = 2**63
"""Larger integers do not fit a document; they become floating-point numbers."""

NOT_DESCRIBED = "is named in config.tools but has no definition in config.toolFunctions"

_SCHEMA_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas"})


@dataclass(frozen=True, slots=True)
class Projection:
    """What the other application reads of a server's tools.

    Attributes:
        tools: Names joined with `, `.
        functions: OpenAI function definitions by name.
        omitted: Number of tools that did not fit into `functions`.
    """

    tools: str
    functions: JsonObject
    num_tools: int
    omitted: int


def project(tools: Iterable[ToolDefinition], server_name: str) -> Projection:
    """Return the projection of the served tools."""
    names: list[str] = []
    functions: JsonObject = {}
    size = 0
    omitted = 0
    allowance = ExpansionBudget()
    for tool in tools:
        names.append(tool.name)
        parameters = openai_parameters(tool.input_schema, allowance)
        size += (
            len(json.dumps(parameters)) + len(tool.description or "") + 2 * len(tool.name) + 200
        )
        if size > MAX_PROJECTION_BYTES:
            omitted += 1
            continue
        key = function_name(tool.name, server_name)
        functions[key] = {
            "type": "function",
            "function": {
                "name": key,
                "description": tool.description or "",
                "parameters": parameters,
            },
            "mcpToolName": tool.name,
        }
    return Projection(", ".join(names), functions, len(names), omitted)


def openai_parameters(schema_text: str, allowance: "ExpansionBudget | None" = None) -> JsonObject:
    """Convert a JSON Schema to a form that can be stored as a sub-document.

    Args:
        schema_text: The upstream's schema.
        allowance: The remaining budget for resolved references of all tools together.
    """
    schema = json.loads(schema_text)
    resolved = _Resolver(schema, allowance or ExpansionBudget()).schema(schema, 0, frozenset())
    return resolved if isinstance(resolved, dict) else {"type": "object"}


class ExpansionBudget:
    """Remaining size for resolved references.

    References to references grow exponentially: two kilobytes can expand to gigabytes.
    """

    def __init__(self) -> None:
        self._left = MAX_PROJECTION_BYTES

    def take(self, size: int) -> bool:
        """Spend *size*; return False, and spend nothing, if not enough is left."""
        if size > self._left:
            return False
        self._left -= size
        return True


class _Resolver:
    """Writes one schema without references."""

    def __init__(self, root: JsonObject, allowance: ExpansionBudget) -> None:
        self._root = root
        self._allowance = allowance
        self._left = MAX_RESOLVED_BYTES
        self._sizes: dict[str, int] = {}

    def schema(self, node: JsonValue, depth: int, seen: frozenset[str]) -> JsonValue:
        if isinstance(node, list):
            return [self.schema(item, depth + 1, seen) for item in node]
        if not isinstance(node, dict):
            return _number(node)
        if depth > MAX_DEPTH:
            return {"type": "object"}
        reference = node.get("$ref")
        if isinstance(reference, str):
            target = _local(reference, self._root)
            if reference in seen or not self._affords(reference, target):
                return {"type": "object"}
            siblings = {key: value for key, value in node.items() if key != "$ref"}
            return self.schema({**target, **siblings}, depth + 1, seen | {reference})
        members: JsonObject = {}
        for key, value in node.items():
            if not _fits(key) or key == "definitions":
                continue
            if key in _SCHEMA_MAPS and isinstance(value, dict):
                members[key] = {
                    name: self.schema(item, depth + 1, seen)
                    for name, item in value.items()
                    if _fits(name)
                }
            elif key in {"default", "const", "enum", "examples"}:
                members[key] = _plain(value)
            else:
                members[key] = self.schema(value, depth + 1, seen)
        return members

    def _affords(self, reference: str, target: JsonObject) -> bool:
        size = self._sizes.get(reference)
        if size is None:
            size = self._sizes[reference] = len(json.dumps(target)) + REFERENCE_BYTES
        if size > self._left or not self._allowance.take(size):
            return False
        self._left -= size
        return True


def _local(reference: str, root: JsonObject) -> JsonObject:
    node: JsonValue = root
    if not reference.startswith("#"):
        return {"type": "object"}
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or name not in node:
            return {"type": "object"}
        node = node[name]
    return node if isinstance(node, dict) else {"type": "object"}


def _plain(value: JsonValue) -> JsonValue:
    """Return example data without the keys that a document cannot contain."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if _fits(key)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _number(value)


def _fits(key: str) -> bool:
    """Whether a document can contain *key*, and readers take it for an ordinary name."""
    return not key.startswith("$") and "\x00" not in key


def _number(value: JsonValue) -> JsonValue:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= BSON_INT_LIMIT:
        return float(value)
    return value


def restore(functions: JsonObject, server_name: str, named: Iterable[str] = ()) -> ToolSnapshot:
    """Return the tools of a server that only the other application has described.

    Reads the current key form (`<tool>_mcp_<server>`) and the older ones (`<tool>_<server>`,
    `required` beside `parameters`). They are validated like an upstream's tools.

    Args:
        functions: `config.toolFunctions`.
        server_name: The server's name.
        named: The names in `config.tools`; those without a function are rejected.
    """
    found: list[JsonValue] = []
    broken: list[Rejection] = []
    for key, value in functions.items():
        tool = _restored(key, value, server_name)
        if tool is None:
            broken.append(Rejection(key, "is stored in an unreadable form"))
        else:
            found.append(tool)
    taken = take(found)
    described = {tool.name for tool in taken.tools} | {tool.name for tool in taken.rejected}
    described |= {_tool_name(tool.name, server_name) for tool in broken}
    missing = [
        Rejection(name, NOT_DESCRIBED) for name in dict.fromkeys(named) if name not in described
    ]
    return ToolSnapshot(taken.tools, (*broken, *taken.rejected, *missing))


def _restored(key: str, value: JsonValue, server_name: str) -> JsonObject | None:
    function = members(value).get("function")
    if not isinstance(value, dict) or not isinstance(function, dict):
        return None
    own_name = value.get("mcpToolName")
    name = own_name if isinstance(own_name, str) and own_name else _tool_name(key, server_name)
    schema: JsonObject = {"type": "object", **members(function.get("parameters"))}
    if isinstance(function.get("required"), list) and "required" not in schema:
        schema["required"] = function["required"]
    description = function.get("description")
    tool: JsonObject = {"name": name, "inputSchema": schema}
    if isinstance(description, str) and description:
        # An empty schema means none, as `project` writes it.
        tool["description"] = description
    return tool


def _tool_name(key: str, server_name: str) -> str:
    # Names of servers and of tools may contain the delimiter.
    known = normalized_server_name(server_name)
    for server in (known, server_name):
        if name := _without(key, f"{DELIMITER}{server}"):
            return name
    # Stored before the server was renamed, or under a generated name.
    name, delimiter, _server = key.rpartition(DELIMITER)
    return name if delimiter else key.removesuffix(f"_{known}")


def _without(text: str, ending: str) -> str:
    """Return *text* without the suffix *ending*; empty if it does not have it."""
    return text[: -len(ending)] if text.endswith(ending) else ""
