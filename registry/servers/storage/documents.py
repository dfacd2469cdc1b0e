"""Conversion of documents of `mcpservers` to records, and of new servers to documents.

All readers of that collection use `record_of`, or its parts.
"""

from collections.abc import Container, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import cast

from beanie import PydanticObjectId
from bson import ObjectId
from pydantic import JsonValue

from packages.database.client import Doc
from packages.database.stored import (
    EARLIEST,
    LATEST,
    NotJsonError,
    id_of,
    json_of,
    moment_of,
    text_of,
    texts_of,
    whole_of,
)
from packages.models import MCPConfig, MCPServer
from registry.access.policy import NO_BITS, ServerScope
from registry.auth.identity import tenant_of
from registry.core.json import JsonObject, choice_of, members
from registry.servers.credentials import unsent_headers
from registry.servers.values import ServerRecord, ServerStatus, SyncMode
from registry.tools.naming import normalized_server_name

FUNCTIONS = "toolFunctions"
WITHOUT_FUNCTIONS = {f"config.{FUNCTIONS}": 0}
READ_FIELDS = (
    *("serverName", "author", "scope", "status", "path", "tags", "numStars", "tenantId"),
    *("lastConnected", "lastError", "errorMessage", "createdAt", "updatedAt", "registry"),
)
"""The root fields that `record_of` reads besides the id and `config`."""

CONFIG_WITHOUT_FUNCTIONS: Doc = {
    "$arrayToObject": {
        "$filter": {
            "input": {"$objectToArray": "$config"},
            "cond": {"$ne": ["$$this.k", FUNCTIONS]},
        }
    }
}
RECORD: Doc = {
    **dict.fromkeys(READ_FIELDS, 1),
    "config": {
        "$cond": [{"$eq": [{"$type": "$config"}, "object"]}, CONFIG_WITHOUT_FUNCTIONS, "$config"]
    },
}
"""The fields that are read of servers. Explicit, because the embedded database copies a whole
document before it omits a field: 14 ms for 500 tools."""

SEEN_FIELDS = {
    "serverName": 1,
    "path": 1,
    "author": 1,
    "scope": 1,
    "tenantId": 1,
    "status": 1,
    "updatedAt": 1,
    "lastConnected": 1,
    "config.requiresOAuth": 1,
    "config.headers": 1,
    "config.apiKey": 1,
    "config.customUserVars": 1,
}
"""The fields for access decisions and connection states. A document may be megabytes, most of
which are tools."""


IDENTITY = ("serverName", "author")
"""Fields that a server must have to be served."""

CHOICES: tuple[tuple[str, type[StrEnum], str], ...] = (
    ("scope", ServerScope, ServerScope.PRIVATE_USER.value),
    ("status", ServerStatus, ServerStatus.ACTIVE.value),
)
"""Fields with a closed set of values, and the value that an unknown one counts as."""

SYNC_MODE = "sync_mode"
MAX_CHARACTERS = 40
URL_HOLDS_PLACES = "config.url holds {{...}}"
MAX_REPORTED = 20
"""Maximum number of reported problems of one document."""


class NotAServerError(ValueError):
    """A document of `mcpservers` has an id that neither application assigns."""

    def __init__(self, document_id: object) -> None:
        super().__init__("has an _id that is not an ObjectId")
        self.document_id = str(document_id)


def record_of(document: Doc, bits: int = NO_BITS) -> ServerRecord:
    """Convert a stored document, whatever it lacks or contains.

    Each member has its type, or the value for a missing one; what was dropped is listed in
    `problems`. The members of `config` and `registry` are JSON, those of `registry` may be times.

    Raises:
        NotAServerError: It has no usable id.
    """
    server_id = id_of(document.get("_id"))
    if server_id is None:
        raise NotAServerError(document.get("_id"))
    problems: list[str] = []
    for name in IDENTITY:
        # Not every query reads it: a missing field says nothing.
        kind = ObjectId if name == "author" else str
        if name in document and (not document[name] or not isinstance(document[name], kind)):
            problems.append(f"{name} is no {'ObjectId' if name == 'author' else 'text'}")
    for name, choices, otherwise in CHOICES:
        stored = document.get(name)
        if stored is not None and choice_of(choices, stored) is None:
            problems.append(_unknown(name, stored, choices, otherwise))
    config = _config(document.get("config"), problems)
    if "{{" in (text_of(config.get("url")) or ""):
        problems.append(f"{URL_HOLDS_PLACES}, which only jarvis-api fills in; use a header")
    for header, name in unsent_headers(config).items():
        problems.append(
            f"config.headers.{header} holds {{{{{name}}}}}, which is not supported here; "
            "the header is not sent"
        )
    path = text_of(document.get("path"))
    return ServerRecord(
        id=server_id,
        server_name=text_of(document.get("serverName")) or "",
        author=id_of(document.get("author")) or "",
        scope=scope_of(document.get("scope")),
        status=choice_of(ServerStatus, document.get("status")),
        path=path or None,
        tags=texts_of(document.get("tags")),
        num_stars=whole_of(document.get("numStars")) or 0,
        last_connected=moment_of(document.get("lastConnected")),
        last_error=moment_of(document.get("lastError")),
        error_message=text_of(document.get("errorMessage")),
        tenant_id=tenant_of(document.get("tenantId")),
        created_at=moment_of(document.get("createdAt")),
        updated_at=moment_of(document.get("updatedAt")),
        config=config,
        registry=_ours(document.get("registry"), problems),
        bits=bits,
        problems=tuple(problems[:MAX_REPORTED]),
    )


def records_of(documents: Iterable[Doc], bits: int = NO_BITS) -> list[ServerRecord]:
    """Convert *documents*, in their order, without those that are no servers."""
    return [record_of(document, bits) for document in documents if id_of(document["_id"])]


def _config(stored: object, problems: list[str]) -> JsonObject:
    if stored is None:
        return {}
    if not isinstance(stored, dict):
        problems.append("config is no object")
        return {}
    config: JsonObject = {}
    for name, value in stored.items():
        try:
            if name == FUNCTIONS and isinstance(value, dict):
                # Each separately: an invalid schema must not affect the other tools.
                config[name] = cast("JsonValue", functions_of(value, problems))
            else:
                config[name] = json_of(value)
        except NotJsonError as exc:
            problems.append(f"config.{name} holds {exc}")
    return config


def functions_of(stored: object, problems: list[str]) -> JsonObject:
    """Return stored tool functions as JSON, without those that JSON cannot express."""
    functions: JsonObject = {}
    for name, value in members(stored).items():
        try:
            functions[name] = json_of(value)
        except NotJsonError as exc:
            problems.append(f"config.{FUNCTIONS}.{name} holds {exc}")
    return functions


def _ours(stored: object, problems: list[str]) -> Mapping[str, object]:
    if stored is None:
        return {}
    if not isinstance(stored, dict):
        problems.append("registry is no object")
        return {}
    ours: dict[str, object] = {}
    for name, value in stored.items():
        try:
            ours[name] = moment_of(value) or json_of(value)
        except NotJsonError as exc:
            problems.append(f"registry.{name} holds {exc}")
    mode = stored.get(SYNC_MODE)
    if mode is not None and choice_of(SyncMode, mode) is None:
        problems.append(_unknown(f"registry.{SYNC_MODE}", mode, SyncMode, SyncMode.MANUAL.value))
    return ours


def _unknown(name: str, stored: object, choices: type[StrEnum], otherwise: str) -> str:
    """Report an unknown stored value, and the value that it counts as."""
    text = text_of(stored)
    said = "no text" if text is None else f"{text[:MAX_CHARACTERS]!r}"
    known = ", ".join(choice.value for choice in choices)
    return f"{name} is {said}, none of {known}; it counts as {otherwise}"


def new_document(model: type[MCPServer], fields: Doc, apart: Container[str]) -> Doc:
    """Return the document of a new server.

    Args:
        model: The class of servers, bound to the database.
        fields: Root fields in stored spelling, `author` as 24 hexadecimal characters.
        apart: Members of `registry` that are stored elsewhere.
    """
    ours = fields.get("registry") or {}
    server = model(
        **{
            **fields,
            "registry": {name: value for name, value in ours.items() if name not in apart},
            "config": MCPConfig.model_validate(fields["config"]),
            "author": PydanticObjectId(fields["author"]),
        }
    )
    document: Doc = server.model_dump(by_alias=True, exclude_none=True)
    document["_id"] = ObjectId()
    # jarvis-api 0.0.71 queries it, and refuses servers without it.
    document["normalizedServerName"] = normalized_server_name(server.server_name)
    return document


def new_record(server_id: str, fields: Doc) -> ServerRecord:
    """Return the record of a new server, with *fields* as for `new_document`."""
    key, author = ObjectId(server_id), ObjectId(fields["author"])
    return record_of({**fields, "_id": key, "author": author})


def scope_of(stored: object) -> ServerScope | None:
    """Read a stored scope. An unknown one counts as the author's alone."""
    return None if stored is None else choice_of(ServerScope, stored) or ServerScope.PRIVATE_USER


def unchanged_since(known: datetime | None) -> Doc:
    """Return the query for a server whose `updatedAt` is unchanged since `record_of` read it.

    A value that is not a date was read as None, and a date out of range as the earliest or latest
    time: compared as it was read, such a server could never be changed again.
    """
    if known is None:
        is_no_date: Doc = {"$not": {"$gte": EARLIEST}}
        return {"$or": [{"updatedAt": is_no_date}, {"updatedAt": {"$type": "array"}}]}
    if known >= LATEST:
        return {"updatedAt": {"$gte": known}}
    return {"updatedAt": {"$lte": known} if known <= EARLIEST else known}
