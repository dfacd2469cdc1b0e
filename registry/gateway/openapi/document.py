"""OpenAPI 3.1 documents of tools as callers see them. Pure.

Schemas of tools refer to their own parts by `#/...`, which would mean the whole document here. So
each becomes a component, with its definitions beside it, and its references name those.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from registry.core.json import JsonObject, JsonValue, members

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COMPONENTS = "#/components/schemas/"
MAX_KEY_CHARACTERS = 120

_UNCLEAN = re.compile(r"[^A-Za-z0-9._-]+")
_DEFINITIONS = re.compile(r"#/(?:\$defs|definitions)/([^/]+)(.*)", re.DOTALL)

SCHEMAS = frozenset(
    {"additionalProperties", "items", "contains", "not", "if", "then", "else", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties", "contentSchema", "additionalItems"}
)
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords that hold schemas; what is in any other is data, whatever it looks like."""

CONTENT: JsonObject = {
    "type": "object",
    "description": "What a tool without an output schema answers.",
    "properties": {
        "content": {
            "type": "array",
            "description": "Content blocks of MCP: text, images, audio, resources and links.",
            "items": {
                "type": "object",
                "properties": {"type": {"type": "string"}},
                "required": ["type"],
            },
        }
    },
    "required": ["content"],
}

ERROR: JsonObject = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "Code, for programs."},
        "message": {"type": "string", "description": "Text, for people."},
    },
    "required": ["error", "message"],
}

FAILURES: Mapping[str, str] = {
    "401": "No acceptable bearer token.",
    "403": "Not allowed: by scopes, a quarantine, or because the call must be confirmed or "
    "approved first.",
    "404": "There is no such tool for the caller.",
    "422": "The arguments do not match the schema, or the tool itself failed.",
    "429": "Over a limit or a budget; `Retry-After` says when to try again.",
    "502": "The upstream cannot be reached, or answered with an error of its own.",
    "503": "The registry or the upstream cannot take the call now.",
    "504": "The upstream did not answer in time.",
}

CONFIRM: JsonObject = {
    "name": "confirm",
    "in": "query",
    "description": "Confirms the call, if its tool demands that of its user; needs a token with "
    "`confirm:tools`.",
    "schema": {"type": "boolean", "default": False},
}

TAKES_RETRY_AFTER = frozenset({"429", "503"})


@dataclass(frozen=True, slots=True)
class Published:
    """What a document is about.

    Attributes:
        title: Of the server, API or toolset.
        description: Of it, if it has one.
        server_url: Where the registry is.
        path: The path of the endpoints, without their names.
    """

    title: str
    description: str | None
    server_url: str
    path: str


def openapi_document(
    published: Published, tools: Iterable[JsonObject], *, version: str
) -> JsonObject:
    """Return the document of *tools*, which are definitions as MCP lists them.

    Args:
        published: What they belong to.
        tools: Their definitions.
        version: Of the registry.
    """
    schemas: JsonObject = {"Error": ERROR, "Content": CONTENT}
    paths: JsonObject = {}
    for tool in tools:
        name = str(tool.get("name"))
        paths[endpoint(published.path, name)] = {"post": _operation(tool, name, schemas)}
    info: JsonObject = {"title": published.title, "version": version}
    if published.description:
        info["description"] = published.description
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": info,
        "servers": [{"url": published.server_url}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {"confirm": CONFIRM},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def endpoint(path: str, tool: str) -> str:
    """Return the path at which a tool is called; a name is one segment, whatever it holds."""
    return f"{path}/{quote(tool, safe='')}"


def _operation(tool: JsonObject, name: str, schemas: JsonObject) -> JsonObject:
    annotations = members(tool.get("annotations"))
    title = tool.get("title") or annotations.get("title")
    operation: JsonObject = {"operationId": name}
    if isinstance(title, str):
        operation["summary"] = title
    if isinstance(tool.get("description"), str):
        operation["description"] = tool["description"]
    given = members(tool.get("inputSchema"))
    operation["requestBody"] = {
        "description": "The arguments.",
        "required": bool(given.get("required")),
        "content": _json(_component(f"{name}.input", given, schemas)),
    }
    output = tool.get("outputSchema")
    answer: JsonValue = {"$ref": f"{COMPONENTS}Content"}
    if isinstance(output, dict):
        answer = _component(f"{name}.output", output, schemas)
    operation["parameters"] = [{"$ref": "#/components/parameters/confirm"}]
    operation["responses"] = {
        "200": {"description": "What the tool answers.", "content": _json(answer)},
        **{status: _failure(status, text) for status, text in FAILURES.items()},
    }
    if annotations:
        operation["x-mcp-annotations"] = annotations
    return operation


def _failure(status: str, description: str) -> JsonObject:
    answer: JsonObject = {
        "description": description,
        "content": _json({"$ref": f"{COMPONENTS}Error"}),
    }
    if status in TAKES_RETRY_AFTER:
        answer["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return answer


def _json(schema: JsonValue) -> JsonObject:
    return {"application/json": {"schema": schema}}


def _component(wanted: str, schema: JsonObject, schemas: JsonObject) -> JsonObject:
    """Add a schema to the components, and return the reference to it."""
    key = _free(wanted, schemas)
    if isinstance(schema.get("$id"), str):
        # Its references mean its own parts already.
        schemas[key] = schema
        return {"$ref": COMPONENTS + key}
    schemas[key] = {}
    keys: dict[str, str] = {}
    defined: list[tuple[str, JsonValue]] = []
    for member in ("$defs", "definitions"):
        for name, one in members(schema.get(member)).items():
            if name not in keys:
                keys[name] = _free(f"{key}.{name}", schemas)
                schemas[keys[name]] = {}
                defined.append((keys[name], one))
    inside = {name: one for name, one in schema.items() if name not in {"$defs", "definitions"}}
    if inside.get("$schema") == DIALECT:
        del inside["$schema"]
    schemas[key] = _moved(inside, key, keys)
    for own, one in defined:
        schemas[own] = _moved(one, key, keys)
    return {"$ref": COMPONENTS + key}


def _free(wanted: str, schemas: JsonObject) -> str:
    base = _UNCLEAN.sub("_", wanted)[:MAX_KEY_CHARACTERS]
    key, number = base, 1
    while key in schemas:
        number += 1
        key = f"{base}_{number}"
    return key


def _moved(schema: JsonValue, key: str, keys: Mapping[str, str]) -> JsonValue:
    """Return a schema whose references to its own parts name the components."""
    if not isinstance(schema, dict) or isinstance(schema.get("$id"), str):
        return schema
    moved: JsonObject = {}
    for name, value in schema.items():
        if name == "$ref" and isinstance(value, str):
            moved[name] = _reference(value, key, keys)
        elif name in MAPS and isinstance(value, dict):
            moved[name] = {inner: _moved(one, key, keys) for inner, one in value.items()}
        elif name in LISTS and isinstance(value, list):
            moved[name] = [_moved(one, key, keys) for one in value]
        elif name in SCHEMAS:
            moved[name] = _moved(value, key, keys)
        else:
            moved[name] = value
    return moved


def _reference(reference: str, key: str, keys: Mapping[str, str]) -> str:
    found = _DEFINITIONS.fullmatch(reference)
    if found is not None:
        name = found[1].replace("~1", "/").replace("~0", "~")
        if name in keys:
            return COMPONENTS + keys[name] + found[2]
    if reference == "#" or reference.startswith("#/"):
        return COMPONENTS + key + reference[1:]
    return reference
