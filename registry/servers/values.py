"""Values about servers, shared by several modules."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, cast

import orjson
from bson import ObjectId
from pydantic import Field, JsonValue, PlainValidator, model_validator

from packages.database.stored import (
    NotJsonError,
    Projection,
    RequiredId,
    StoredText,
    StoredTexts,
    StoredTime,
    TextOrEmpty,
    WholeOrZero,
    id_of,
    json_of,
    moment_of,
    text_of,
)
from packages.models.states import Effect, SourceType
from registry.access.policy import Grants, ServerFacts, ServerScope
from registry.auth.identity import tenant_of
from registry.core.definitions import MAX_DEPTH, Rejection
from registry.core.json import JsonObject, choice_of, members, nesting
from registry.oauth.values import OAuthServer
from registry.openapi.security import NO_CREDENTIALS, DescribedCredentials
from registry.prompts_and_resources.values import NOTHING_READ, FeatureSnapshot
from registry.tools.naming import default_path, slug_of
from registry.tools.values import ToolSnapshot


class ServerStatus(StrEnum):
    """Configured state of a server; not whether it is reachable right now."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    ERROR = "error"


class SyncMode(StrEnum):
    """What starts a sync of a server's tools, besides people and its own announcements."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    WEBHOOK = "webhook"


MAX_SYNC_SECONDS = 366 * 86_400
"""Maximum interval; other programs may store longer ones, which would exceed all dates."""

MAX_CAPABILITIES_CHARACTERS = 64 * 1024

DEFAULT_SYNC_SECONDS = 3600
"""Interval of a server in mode `scheduled` without an interval of its own."""


class Transport(StrEnum):
    """How the registry reaches an upstream. Others are read and shown, but not connected.

    `openapi` is no transport of MCP: each call is a request to a REST API.
    """

    STREAMABLE_HTTP = "streamable-http"
    SSE = "sse"
    OPENAPI = "openapi"


MCP_TRANSPORTS = (Transport.STREAMABLE_HTTP, Transport.SSE)


ENVIRONMENT = "${"
"""Prefix of names that jarvis-api replaces by its own environment variables, its keys included,
when it connects to servers."""

VARIABLE = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}")
"""A placeholder in a header."""

PLACES_KEY = "places_key"
"""Member of `config.openapi`: the key is sent where the description says, once that is known."""

CALLER_VALUES = ("LIBRECHAT_USER_ID", "LIBRECHAT_USER_USERNAME", "LIBRECHAT_USER_ROLE")
"""jarvis-api's placeholders for facts about the caller that are supported here."""

FILLED_BY_THE_OTHER_APPLICATION = "LIBRECHAT_"
"""Prefixes of placeholders that jarvis-api fills in; headers with any except `CALLER_VALUES` are
not sent here."""

STDIO_UNSUPPORTED = (
    "programs (stdio) are not started by the registry; serve it over HTTP with a bridge, "
    "such as `npx -y supergateway --stdio PROGRAM --outputTransport streamableHttp --port 9000` "
    "or `mcp-proxy --port 9000 -- PROGRAM`, and register http://127.0.0.1:9000/mcp"
)
"""The bridges are those that the README names."""


class Era(StrEnum):
    """Protocol eras: the handshake up to 2025-11-25, the stateless one from 2026-07-28."""

    LEGACY = "legacy"
    MODERN = "modern"


@dataclass(frozen=True, slots=True)
class ApiSource:
    """Where the description of a REST API is, and what is taken from it.

    Attributes:
        url: Where it is fetched; None if it was given as *document*.
        document: The description itself, or what was fetched last, if it can be asked for news.
        include: Rules of which an operation must fit one; empty for all.
        exclude: Rules of which it must fit none.
        etag: The version of what was fetched last.
        last_modified: When that was changed, in its server's own words.
        places_key: Whether the key is sent where the description says, once that is known.
    """

    url: str | None = None
    document: bytes | None = field(default=None, repr=False)
    include: tuple[JsonObject, ...] = ()
    exclude: tuple[JsonObject, ...] = ()
    etag: str | None = None
    last_modified: str | None = None
    places_key: bool = False


@dataclass(frozen=True, slots=True)
class ApiFacts:
    """What a description says beside its operations.

    Attributes:
        base_url: Where calls go.
        facts: As stored: `hash`, `openapi`, `title`, `version`, `etag`, `last_modified`,
            `fetched_from`, `operations`, `security_schemes`, and `server`, which is what the
            description names as its server; `tokens` and `users_tokens`, which are where a client
            obtains access tokens, in the words of `oauth`.
        document: The description.
        credentials: What it says of credentials for the selected operations.
    """

    base_url: str
    facts: JsonObject
    document: bytes = field(repr=False)
    credentials: DescribedCredentials = NO_CREDENTIALS


@dataclass(frozen=True, slots=True)
class ConnectionSpec:
    """How to reach one upstream.

    Attributes:
        headers: Headers to send, credentials included; never logged.
        init_timeout_seconds: Time limit of the whole discovery; None for the default.
        known_eras: The protocol eras at the last discovery, if there was one.
        api: Where the description of a REST API is; None for an MCP server.
    """

    url: str
    transport: Transport
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    init_timeout_seconds: float | None = None
    known_eras: frozenset[Era] = frozenset()
    api: ApiSource | None = None


@dataclass(frozen=True, slots=True)
class Discovered:
    """What one upstream reported about itself.

    Attributes:
        capabilities: The server's MCP capabilities.
        protocol_version: The version negotiated first.
        eras: The protocol eras that the upstream speaks.
        init_duration_ms: Whole milliseconds from opening the connection to the handshake's end.
        title: Its own display name.
        features: Its prompts, resources and resource templates, as far as they could be read.
        api: What the description of a REST API says beside its operations.
    """

    snapshot: ToolSnapshot
    capabilities: JsonObject
    protocol_version: str
    eras: frozenset[Era]
    instructions: str | None
    init_duration_ms: int
    title: str | None = None
    features: FeatureSnapshot = NOTHING_READ
    api: ApiFacts | None = None

    @property
    def source_type(self) -> SourceType:
        """Return whether it is an MCP server or a REST API."""
        return SourceType.MCP if self.api is None else SourceType.OPENAPI


UNKNOWN_SCOPE = ServerScope.PRIVATE_USER
"""The scope of a server without a valid one: the most restrictive."""

OURS = "registry."
SYNC_FIELDS = frozenset(
    OURS + name
    for name in (
        "last_sync_started_at",
        "last_sync_completed_at",
        "last_sync_status",
        "last_synced_at",
        "next_sync_at",
        "settled_digest",
        "settled_at",
    )
)
"""Members of a server that change with every discovery; stored apart from its document."""


READ_HERE = "auto_expose"
"""Member of `registry` that exists once this program has registered or read the server."""


def names_in(stored: object) -> tuple[str, ...]:
    """Split a comma-joined list of names; spaces around commas are ignored."""
    if not isinstance(stored, str):
        return ()
    return tuple(name for part in stored.split(",") if (name := part.strip()))


FUNCTIONS = "toolFunctions"
SYNC_MODE = "sync_mode"
MAX_CHARACTERS = 40
MAX_REPORTED = 20
"""Maximum number of reported problems of one document."""

CONFIG_WITHOUT_FUNCTIONS: Mapping[str, object] = {
    "$arrayToObject": {
        "$filter": {
            "input": {"$objectToArray": "$config"},
            "cond": {"$ne": ["$$this.k", FUNCTIONS]},
        }
    }
}
"""All members of `config` but its tools, which may be megabytes. The embedded database copies a
whole document before it omits a field: 14 ms for 500 tools."""

IDENTITY: tuple[tuple[str, type, str], ...] = (
    ("serverName", str, "text"),
    ("author", ObjectId, "ObjectId"),
)
"""Fields that a server must have to be served."""

CHOICES: tuple[tuple[str, type[StrEnum], str], ...] = (
    ("scope", ServerScope, ServerScope.PRIVATE_USER.value),
    ("status", ServerStatus, ServerStatus.ACTIVE.value),
)
"""Fields with a closed set of values, and the value that an unknown one counts as."""


def _scope(stored: object) -> ServerScope | None:
    return None if stored is None else choice_of(ServerScope, stored) or UNKNOWN_SCOPE


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


def unsent_headers(config: JsonObject) -> dict[str, str]:
    """Return the headers with placeholders that only jarvis-api supports, each with that name."""
    known = {*CALLER_VALUES, *members(config.get("customUserVars"))}
    return {
        header: name
        for header, value in members(config.get("headers")).items()
        for name in VARIABLE.findall(str(value))
        if name.startswith(FILLED_BY_THE_OTHER_APPLICATION) and name not in known
    }


def _unchanged(value: object) -> object:
    return value


class ServerRecord(Projection):
    """A stored server, whatever its document lacks or contains, without its tool functions.

    Each member has its type, or the value for a missing one; what was dropped is listed in
    `problems`. The members of `config` and `registry` are JSON, those of `registry` may be times.

    Attributes:
        author: ObjectId of the registering user, 24 hexadecimal characters.
        scope: None when missing; an unknown one counts as the author's alone.
        status: As stored; None when missing or unknown.
        path: Gateway path as stored; None when missing.
        config: The nested `config` as stored, ciphertexts included.
        registry: Our own facts about the server.
        bits: What the caller may do with it (`access.policy.Permission`), if it was read on behalf
            of one.
        problems: Stored values that cannot be read, one message each.
        tenant_id: Its tenant.
        described: Names of the served tools of a server that we never read; None if they were
            not looked up.
        rejected: Its tools that cannot be served, if that was checked.
        source_type: Whether it is an MCP server or a REST API, by the collection it is in.
    """

    source_type: ClassVar[SourceType] = SourceType.MCP
    computed: ClassVar[Mapping[str, object]] = {
        "config": {
            "$cond": [
                {"$eq": [{"$type": "$config"}, "object"]},
                CONFIG_WITHOUT_FUNCTIONS,
                "$config",
            ]
        }
    }

    id: Annotated[RequiredId, Field(alias="_id")]
    server_name: Annotated[TextOrEmpty, Field(alias="serverName")] = ""
    author: Annotated[str, PlainValidator(lambda stored: id_of(stored) or "")] = ""
    scope: Annotated[ServerScope | None, PlainValidator(_scope)] = None
    status: Annotated[
        ServerStatus | None, PlainValidator(lambda stored: choice_of(ServerStatus, stored))
    ] = None
    path: Annotated[str | None, PlainValidator(lambda stored: text_of(stored) or None)] = None
    tags: StoredTexts = ()
    num_stars: Annotated[WholeOrZero, Field(alias="numStars")] = 0
    last_connected: Annotated[StoredTime, Field(alias="lastConnected")] = None
    last_error: Annotated[StoredTime, Field(alias="lastError")] = None
    error_message: Annotated[StoredText, Field(alias="errorMessage")] = None
    tenant_id: Annotated[str | None, PlainValidator(tenant_of), Field(alias="tenantId")] = None
    created_at: Annotated[StoredTime, Field(alias="createdAt")] = None
    updated_at: Annotated[StoredTime, Field(alias="updatedAt")] = None
    config: Annotated[JsonObject, PlainValidator(_unchanged), Field(repr=False)] = Field(
        default_factory=dict
    )
    registry: Annotated[Mapping[str, object], PlainValidator(_unchanged)] = Field(
        default_factory=dict
    )
    bits: Annotated[int, Field(exclude=True)] = 0
    problems: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    described: Annotated[tuple[str, ...] | None, Field(exclude=True)] = None
    rejected: Annotated[tuple[Rejection, ...], Field(exclude=True)] = ()

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, document: Mapping[str, object]) -> dict[str, object]:
        """Return the stored fields, `config` and `registry` as JSON, and the problems."""
        problems: list[str] = []
        for name, kind, called in IDENTITY:
            # Not every query reads it: a missing field says nothing.
            if name in document and not (document[name] and isinstance(document[name], kind)):
                problems.append(f"{name} is no {called}")
        for name, choices, otherwise in CHOICES:
            stored = document.get(name)
            if stored is not None and choice_of(choices, stored) is None:
                problems.append(_unknown(name, stored, choices, otherwise))
        config = _config(document.get("config"), problems)
        if "{{" in (text_of(config.get("url")) or ""):
            problems.append(
                "config.url holds {{...}}, which only jarvis-api fills in; use a header"
            )
        for header, name in unsent_headers(config).items():
            problems.append(
                f"config.headers.{header} holds {{{{{name}}}}}, which is not supported here; "
                "the header is not sent"
            )
        ours = _ours(document.get("registry"), problems)
        read = {name: document[name] for name in cls.Settings.projection if name in document}
        return {**read, "config": config, "registry": ours, "problems": problems[:MAX_REPORTED]}

    def facts(self, grants: Grants) -> ServerFacts:
        """Return the input of the access decision."""
        return ServerFacts(self.author, self.scope, grants, tenant_id=self.tenant_id)

    @property
    def is_api(self) -> bool:
        """Whether it is a REST API."""
        return self.source_type is SourceType.OPENAPI

    @property
    def is_described_elsewhere(self) -> bool:
        """Whether only the other application has described its tools: we never read it."""
        return READ_HERE not in self.registry

    def in_stored_order(self, names: Collection[str]) -> tuple[str, ...]:
        """Sort names of tools in the order of `config.tools`, all others after them."""
        order = {name: place for place, name in enumerate(names_in(self.config.get("tools")))}
        return tuple(sorted(names, key=lambda name: (order.get(name, len(order)), name)))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Return the names of the tools that are served.

        If we read the server, `config.tools` has them, because we wrote it. The other application
        may list tools there that it does not describe.
        """
        if self.described is not None and self.is_described_elsewhere:
            return self.described
        return names_in(self.config.get("tools"))

    @property
    def effective_status(self) -> ServerStatus:
        """Return the status, or the default if there is none."""
        return self.status or ServerStatus.ACTIVE

    @property
    def effective_scope(self) -> ServerScope:
        """Return the scope, or the most restrictive one if there is none."""
        return self.scope or UNKNOWN_SCOPE

    @property
    def default_effect(self) -> Effect:
        """Return what holds for tools that no policy allows; an unreadable value refuses them."""
        stored = self.registry.get("default_effect")
        if stored is None:
            return Effect.ALLOW
        return choice_of(Effect, stored) or Effect.DENY

    @property
    def capabilities(self) -> JsonObject:
        """Return the stored capabilities; empty if they cannot be serialized."""
        text = self.config.get("capabilities")
        if not isinstance(text, str) or len(text) > MAX_CAPABILITIES_CHARACTERS:
            return {}
        try:
            # It has neither numbers nor characters that could not be serialized.
            found = orjson.loads(text)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            return {}
        is_flat = isinstance(found, dict) and nesting(found, MAX_DEPTH) <= MAX_DEPTH
        return found if is_flat else {}

    @property
    def eras(self) -> frozenset[Era]:
        """Return the protocol eras of the last discovery."""
        stored = self.registry.get("eras")
        names = stored if isinstance(stored, list) else []
        return frozenset(era for era in Era if era.value in names)

    @property
    def sync_mode(self) -> SyncMode:
        """Return what starts a sync; documents without a mode are synced only by people."""
        return choice_of(SyncMode, self.registry.get("sync_mode")) or SyncMode.MANUAL

    @property
    def sync_interval_seconds(self) -> int:
        """Return the interval between two syncs in mode `scheduled`."""
        stored = self.registry.get("sync_interval_seconds")
        if not isinstance(stored, int) or stored <= 0:
            return DEFAULT_SYNC_SECONDS
        return min(stored, MAX_SYNC_SECONDS)

    @property
    def effective_path(self) -> str:
        """Return the gateway path, or the default if there is none."""
        return self.path or default_path(self.server_name)


class WholeServerRecord(ServerRecord):
    """A stored server with its tool functions."""

    computed: ClassVar[Mapping[str, object]] = {}


class ApiRecord(ServerRecord):
    """A stored REST API, without its tool functions and its description."""

    source_type: ClassVar[SourceType] = SourceType.OPENAPI


class WholeApiRecord(WholeServerRecord):
    """A stored REST API with its tool functions, without its description."""

    source_type: ClassVar[SourceType] = SourceType.OPENAPI


def source_type_of(config: Mapping[str, object]) -> SourceType:
    """Return of which kind a server with this `config` is, if it is stored by this program."""
    is_api = config.get("type") == Transport.OPENAPI.value
    return SourceType.OPENAPI if is_api else SourceType.MCP


def collection_of(server: ServerRecord) -> str:
    """Return the name of the collection that a server is stored in."""
    return "raw_apis" if server.is_api else "mcpservers"


@dataclass(frozen=True, slots=True)
class Precondition:
    """A caller's precondition for changing a server.

    Attributes:
        updated_at: The expected `updatedAt`, from the body or from an ETag.
        unmodified_since: Not changed after this second (RFC 9110, 13.1.4).
    """

    updated_at: datetime | None = None
    unmodified_since: datetime | None = None

    @property
    def provided(self) -> datetime | None:
        """Return the given time, if there is one."""
        return self.updated_at or self.unmodified_since

    def holds(self, current: datetime | None) -> bool:
        """Whether a server with this `updatedAt` may be changed."""
        if self.updated_at is not None and current != self.updated_at:
            return False
        if self.unmodified_since is None or current is None:
            return True
        return current.replace(microsecond=0) <= self.unmodified_since


NO_PRECONDITION = Precondition()


@dataclass(frozen=True, slots=True)
class ServerFilter:
    """Filter of a list of servers."""

    query: str | None = None
    scope: ServerScope | None = None
    status: ServerStatus | None = None
    author: str | None = None
    source_type: SourceType | None = None


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Numbers over all servers."""

    total: int
    by_scope: dict[ServerScope, int]
    by_status: dict[ServerStatus, int]
    by_transport: dict[str, int]
    tools: int


OAUTH_MEMBERS = ("requiresOAuth", "oauth", "oauthMetadata")
"""The members of `config` that say how access tokens are obtained."""


def oauth_server(record: ServerRecord) -> OAuthServer:
    """Return what OAuth needs of a server."""
    config = record.config
    return OAuthServer(
        id=record.id,
        name=record.server_name,
        slug=slug_of(record.effective_path) or record.server_name,
        title=str(config.get("title") or record.server_name),
        url=str(config.get("url") or ""),
        config={name: config[name] for name in OAUTH_MEMBERS if name in config},
        created_at=record.created_at,
        updated_at=record.updated_at,
        tenant_id=record.tenant_id,
    )
