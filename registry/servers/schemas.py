"""Bodies of the servers API: camelCase on the wire, both spellings accepted on input."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from packages.models.states import Effect
from registry.access.policy import ServerScope
from registry.access.schemas import PermissionFlags
from registry.connections.values import ConnectionState
from registry.core.json import JsonObject
from registry.core.text import ONE_LINE, Tag
from registry.servers.values import (
    ENVIRONMENT,
    STDIO_UNSUPPORTED,
    ServerStatus,
    SyncMode,
    Transport,
)
from registry.tools.call_rules import (
    CONFIRM,
    VALIDATE,
    VALIDATE_OUTPUT,
    ArgumentValidation,
    Confirmation,
    OutputValidation,
)
from registry.tools.differences import Compatibility
from registry.tools.exposure import AutoExpose
from registry.tools.naming import RESERVED_SLUGS, SLUG_PATTERN
from registry.tools.reconcile import OnChange
from registry.tools.reported_changes import ChangeKind
from registry.web.embedding import Embedding
from registry.web.pages import Pagination

HEADER_NAME = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}$"
FORBIDDEN_HEADERS = re.compile(
    r"(?i)^(host|content-length|content-type|transfer-encoding|connection|upgrade|te|trailer"
    r"|keep-alive|proxy-.*|accept|accept-encoding|expect|x-forwarded-.*|forwarded|mcp-.*"
    r"|last-event-id)$"
)
"""Headers that the gateway itself decides; a stored value would break or spoof the exchange."""

"""Text without control characters: they forge log lines and end strings of other programs."""

TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
"""The same over several lines."""

ServerName = Annotated[
    str,
    StringConstraints(pattern=SLUG_PATTERN, max_length=64),
    Field(description="Unique name: letters, digits, `.`, `_`, `-`."),
]
Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=256),
]
Description = Annotated[str, StringConstraints(pattern=TEXT, max_length=8192)]
NAMES_ENVIRONMENT = (
    "must not hold `${`: the application that shares the database would send a variable of its "
    "environment to the server"
)


def _names_no_environment(value: str) -> str:
    if ENVIRONMENT in value:
        raise ValueError(NAMES_ENVIRONMENT)
    return value


NoEnvironment = AfterValidator(_names_no_environment)

Url = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=2048),
    NoEnvironment,
]
Tags = Annotated[list[Tag], Field(max_length=50)]
Path = Annotated[
    str,
    StringConstraints(pattern=r"^/mcp/[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"),
    Field(description="Gateway path; `/mcp/<serverName>` when not given."),
]
Secret = Annotated[
    str,
    StringConstraints(pattern=ONE_LINE, min_length=1, max_length=16_384),
    NoEnvironment,
]
HeaderName = Annotated[str, StringConstraints(pattern=HEADER_NAME)]
HeaderValue = Annotated[
    str,
    StringConstraints(pattern=r"^[\x20-\x7e]*$", min_length=1, max_length=8192),
    NoEnvironment,
]


def _fits_a_header(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]*", value):
        msg = "must be printable ASCII on one line, or no header can carry it"
        raise ValueError(msg)
    return value


UserValue = Annotated[
    str,
    StringConstraints(min_length=1, max_length=8192),
    AfterValidator(_fits_a_header),
    NoEnvironment,
]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Milliseconds = Annotated[int, Field(ge=0, le=3_600_000, strict=True)]


ReadOnly = Annotated[Any, Field(json_schema_extra={"readOnly": True})]
"""A member of an answer that may be sent back unchanged with an update."""


class _Wire(BaseModel):
    """camelCase names, snake_case accepted, anything unknown refused by name."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", hide_input_in_errors=True
    )


class ApiKeyInput(BaseModel):
    """How to authenticate to the upstream. `***` for *key* leaves the stored one alone."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Secret | None = None
    source: Literal["admin", "user"] = "admin"
    authorization_type: Literal["bearer", "basic", "custom"] = "bearer"
    custom_header: HeaderName | None = None

    @property
    def place(self) -> Literal["header", "query", "cookie"]:
        """Return where the key is sent."""
        return "header"

    @model_validator(mode="after")
    def _custom_header_iff_custom(self) -> Self:
        if (self.authorization_type == "custom") != (self.custom_header is not None):
            msg = "custom_header is required when authorization_type is custom, and only then"
            raise ValueError(msg)
        is_encoded = self.authorization_type == "basic" and ":" in (self.key or "")
        if self.key is not None and not is_encoded:
            _fits_a_header(self.key)
        if self.custom_header is not None and FORBIDDEN_HEADERS.match(self.custom_header):
            msg = f"custom_header {self.custom_header} is set by the gateway itself"
            raise ValueError(msg)
        return self


OAuthNames = Annotated[
    list[Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=256), NoEnvironment]],
    Field(max_length=50),
]


class OAuthInput(BaseModel):
    """OAuth client of the upstream. `***` for *client_secret* leaves the stored one alone.

    Members that the published schema does not name are taken only as they are stored.
    """

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    authorization_url: Url | None = None
    token_url: Url | None = None
    client_id: (
        Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=2048), NoEnvironment] | None
    ) = None
    client_secret: Secret | None = None
    scope: (
        Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=4096), NoEnvironment] | None
    ) = None
    redirect_uri: Url | None = None
    token_exchange_method: Literal["default_post", "basic_auth_header"] | None = None
    grant_types_supported: OAuthNames | None = None
    token_endpoint_auth_methods_supported: OAuthNames | None = None
    response_types_supported: OAuthNames | None = None
    code_challenge_methods_supported: OAuthNames | None = None
    skip_code_challenge_check: bool | None = None
    revocation_endpoint: Url | None = None
    revocation_endpoint_auth_methods_supported: OAuthNames | None = None


class UserVariable(BaseModel):
    """The description of a value that users are asked for."""

    model_config = ConfigDict(extra="allow")

    title: Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=200)]
    description: Annotated[str, StringConstraints(pattern=TEXT, max_length=2000)] = ""
    sensitive: bool | None = None


class _ConfigInput(_Wire):
    """Fields of the stored `config` that people may set, flat."""

    title: Title | None = None
    description: Description | None = None
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=50)] | None = None
    api_key: ApiKeyInput | None = None
    oauth: OAuthInput | None = None
    requires_oauth: bool | None = Field(default=None, alias="requiresOAuth")
    timeout: Milliseconds | None = Field(default=None, description="Milliseconds of silence.")
    init_timeout: Milliseconds | None = Field(
        default=None,
        description="Milliseconds for reading the server: registration, refresh, connection "
        "test; DISCOVERY_TIMEOUT_SECONDS at most, and by default.",
    )
    server_instructions: (
        bool | Annotated[str, StringConstraints(pattern=TEXT, max_length=65_536)] | None
    ) = None
    icon_path: Annotated[str, StringConstraints(pattern=ONE_LINE, max_length=2048)] | None = None
    startup: bool | None = None
    custom_user_vars: Annotated[dict[VariableName, UserVariable], Field(max_length=20)] | None = (
        Field(default=None, description="Values that each user gives; headers hold {{NAME}}.")
    )

    @model_validator(mode="after")
    def _headers_are_ours_to_set(self) -> Self:
        for name in self.headers or {}:
            if FORBIDDEN_HEADERS.match(name):
                msg = f"headers: {name} is set by the gateway itself"
                raise ValueError(msg)
        return self


def read_only_fields() -> dict[str, str]:
    """Return the read-only members of an update: attribute to name on the wire."""
    return {
        name: field.alias or name
        for name, field in ServerUpdate.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("readOnly")
    }


OnChangePolicy = Annotated[
    OnChange | None,
    Field(
        description=(
            "What becomes of a changed definition of a tool that is served: `accept` serves it, "
            "`hold` serves the approved one until somebody decides, `block` serves neither. By "
            "default `hold` on shared servers and `accept` on private ones."
        )
    ),
]


SyncInterval = Annotated[
    int | None,
    Field(
        ge=60,
        le=30 * 86_400,
        strict=True,
        description="Seconds between two readings when scheduled; 3600.",
    ),
]


API_ELSEWHERE = "REST APIs are registered with POST /api/v1/apis"


def _transport(value: object) -> object:
    if value == "stdio":
        raise ValueError(STDIO_UNSUPPORTED)
    if value == "openapi" and not isinstance(value, Transport):
        raise ValueError(API_ELSEWHERE)
    # Clients' own configuration files call it so.
    return Transport.STREAMABLE_HTTP if value == "http" else value


TransportInput = Annotated[
    Transport,
    BeforeValidator(_transport),
    Field(description="`http` is taken as another word for `streamable-http`."),
]


DefaultEffect = Annotated[
    Effect | None,
    Field(
        description="What holds for tools that no policy is about: `allow`, also for null, or "
        "`deny`, which closes each tool to those to whom no policy allows it."
    ),
]


class CallRulesInput(BaseModel):
    """What is demanded of calls of a server's tools that say nothing else themselves."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    validate_arguments: ArgumentValidation | None = Field(
        default=None,
        alias="validate",
        description="What happens to arguments that do not match the served definition.",
    )
    validate_output: OutputValidation | None = Field(
        default=None, description="The same for results and the `outputSchema`."
    )
    confirm: Confirmation | None = Field(
        default=None, description="Which calls their user must confirm."
    )

    def stored(self) -> JsonObject:
        """Return them as they are stored."""
        chosen = {
            VALIDATE: self.validate_arguments,
            VALIDATE_OUTPUT: self.validate_output,
            CONFIRM: self.confirm,
        }
        return {name: choice.value for name, choice in chosen.items() if choice is not None}


class PackageInput(BaseModel):
    """The package that a container server runs."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True
    )

    registry_type: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=32),
        Field(description="`oci`, `npm`, `pypi` or another kind of package."),
    ] = "oci"
    identifier: Annotated[
        str,
        StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=512),
        Field(description="Its name there, for `oci` with the tag."),
    ]
    version: (
        Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=128)] | None
    ) = None

    def stored(self) -> JsonObject:
        """Return it as it is stored."""
        kind = self.registry_type.lower()
        stored: JsonObject = {"registry_type": kind, "identifier": self.identifier}
        return stored if self.version is None else {**stored, "version": self.version}


PackageOf = Annotated[
    PackageInput | None,
    Field(
        description="The package that the server runs, where it is a container. It is matched to "
        "the catalog by that, and without a URL it is recorded and not connected to."
    ),
]


class _Registration(_ConfigInput):
    """What a registration says of a server beside its name."""

    package: PackageOf = None
    url: Url | None = Field(
        default=None, validate_default=True, description="Required, unless there is a package."
    )
    status: ServerStatus | None = Field(
        default=None, description="Of a server with a package, which runs elsewhere."
    )
    type: TransportInput = Transport.STREAMABLE_HTTP
    scope: ServerScope = ServerScope.PRIVATE_USER
    tags: Tags = Field(default_factory=list)
    path: Path | None = None
    auto_expose: AutoExpose = AutoExpose.ALL
    on_change: OnChangePolicy = None
    call_rules: CallRulesInput | None = None
    default_effect: DefaultEffect = None
    sync_mode: SyncMode = Field(
        default=SyncMode.MANUAL,
        description="What has its tools read anew: people alone, a schedule, or calls of its "
        "webhook.",
    )
    sync_interval_seconds: SyncInterval = None


GITHUB: JsonObject = {
    "serverName": "github",
    "title": "GitHub MCP Server",
    "description": "GitHub repositories, issues and pull requests",
    "type": "streamable-http",
    "url": "https://api.githubcopilot.com/mcp/",
    "scope": "private_user",
    "tags": ["github", "code"],
    "requiresOAuth": True,
    "oauth": {
        "authorization_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "client_id": "Iv23lidC6dSy1q3Yr2sI",
        "client_secret": "your client secret",
        "scope": "repo user read:org",
    },
}
TAVILY: JsonObject = {
    "serverName": "tavilysearchv1",
    "title": "Tavily",
    "description": "Search the web",
    "type": "streamable-http",
    "url": "https://mcp.tavily.com/mcp",
    "scope": "private_user",
    "tags": ["search"],
    "apiKey": {
        "key": "your key",
        "source": "admin",
        "authorization_type": "custom",
        "custom_header": "tavilyApiKey",
    },
}
"""Examples of registrations in the API description."""


class ServerCreate(_Registration):
    """A server to register."""

    model_config = ConfigDict(json_schema_extra={"examples": [TAVILY, GITHUB]})

    server_name: ServerName
    _catalog_id: str | None = PrivateAttr(default=None)

    @property
    def catalog_id(self) -> str | None:
        """Return the server of the catalog that this is registered from, if it is."""
        return self._catalog_id

    def from_catalog(self, entry_id: str) -> Self:
        """Return this, registered from a server of the catalog."""
        made = self.model_copy()
        made._catalog_id = entry_id  # noqa: SLF001 - of the same class
        return made

    @field_validator("url")
    @classmethod
    def _is_reached_or_a_package(cls, url: str | None, known: ValidationInfo) -> str | None:
        # A package that is not in order is missing here, and has its own message.
        if url is None and known.data.get("package", ...) is None:
            msg = "Field required, unless the server is a package"
            raise ValueError(msg)
        return url

    @field_validator("status")
    @classmethod
    def _is_told_of_a_package(
        cls, status: ServerStatus | None, known: ValidationInfo
    ) -> ServerStatus | None:
        if status is not None and known.data.get("package", ...) is None:
            msg = "status can be given only with a package"
            raise ValueError(msg)
        return status

    @model_validator(mode="after")
    def _path_is_free_to_take(self) -> Self:
        slug = self.server_name if self.path is None else self.path.removeprefix("/mcp/")
        if slug.lower() in RESERVED_SLUGS:
            msg = f"the gateway path /mcp/{slug} is reserved"
            raise ValueError(msg)
        return self


class ServerUpdate(_ConfigInput):
    """What to change; only members that are present count, and null removes an optional one.

    A whole answer may be sent back: read-only members are accepted if they are unchanged.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"description": "Updated description", "tags": ["github", "production"]}]
        }
    )

    url: Url | None = None
    type: TransportInput | None = None
    package: PackageOf = None
    scope: ServerScope | None = None
    status: ServerStatus | None = None
    auto_expose: AutoExpose | None = Field(
        default=None, description="For tools that turn up from now on."
    )
    on_change: OnChangePolicy = None
    call_rules: CallRulesInput | None = Field(
        default=None, description="Replaced as a whole; null for none."
    )
    default_effect: DefaultEffect = None
    sync_mode: SyncMode | None = None
    sync_interval_seconds: SyncInterval = None
    tags: Tags | None = None
    path: Path | None = None
    updated_at: AwareDatetime | None = Field(
        default=None, description="The `updatedAt` that was read; 409 when it moved on since."
    )

    id: ReadOnly = None
    server_name: ReadOnly = None
    author: ReadOnly = None
    created_at: ReadOnly = None
    num_tools: ReadOnly = None
    num_stars: ReadOnly = None
    last_connected: ReadOnly = None
    last_error: ReadOnly = None
    error_message: ReadOnly = None
    connection_state: ReadOnly = Field(default=None, alias="connection_state")
    is_recently_active: ReadOnly = Field(default=None, alias="is_recently_active")
    embedding: ReadOnly = None
    capabilities: ReadOnly = None
    tools: ReadOnly = None
    tool_functions: ReadOnly = None
    init_duration: ReadOnly = None
    tool_problems: ReadOnly = None
    registry_server_id: ReadOnly = None
    registry_server_name: ReadOnly = None
    registry_server_description: ReadOnly = None
    document_problems: ReadOnly = None
    feature_problems: ReadOnly = None
    permissions: ReadOnly = None
    notice: ReadOnly = None
    last_sync_started_at: ReadOnly = None
    last_sync_completed_at: ReadOnly = None
    last_sync_status: ReadOnly = None
    next_sync_at: ReadOnly = None
    webhook: ReadOnly = None
    sse_read_timeout: ReadOnly = None
    chat_menu: ReadOnly = None
    oauth_metadata: ReadOnly = Field(default=None, alias="oauthMetadata")


class ConnectionTest(_Registration):
    """A server to try out without saving anything: the body of a registration, name or none.

    What does not concern the connection is checked and otherwise ignored.
    """

    server_name: ServerName | None = None


class Toggle(_Wire):
    """Whether the server shall be served."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    enabled: bool = Field(strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class ApiKeyView(BaseModel):
    """How the upstream is authenticated to; the key itself is always masked."""

    key: Literal["***"] | None = None
    source: str
    authorization_type: str
    custom_header: str | None = None


class ServerSummary(_Answer):
    """A server in a list."""

    id: str
    server_name: str
    title: str | None = None
    description: str | None = None
    type: str | None = None
    url: str | None = None
    api_key: ApiKeyView | None = None
    requires_oauth: bool = Field(alias="requiresOAuth")
    oauth: dict[str, Any] | None = None
    capabilities: str | None = Field(default=None, description="JSON text.")
    tools: str = Field(description="Tool names, joined with `, `.")
    author: str
    scope: ServerScope
    status: ServerStatus
    path: str
    tags: list[str]
    num_tools: int
    num_stars: int
    init_duration: float | None = Field(default=None, description="Milliseconds.")
    last_connected: datetime | None
    created_at: datetime | None
    updated_at: datetime | None
    permissions: PermissionFlags
    connection_state: ConnectionState = Field(
        alias="connection_state",
        description="How the connection stands: the gateway's, or the caller's own where users "
        "bring their own credentials.",
    )
    is_recently_active: bool = Field(
        alias="is_recently_active",
        description="Connected to within the last five minutes; by the caller where users bring "
        "their own credentials, as `lastConnected` is.",
    )


class ToolProblem(BaseModel):
    """A tool that the upstream offers but that could not be taken, and why."""

    name: str
    reason: str


class FeatureProblemAnswer(BaseModel):
    """A prompt, resource or resource template that could not be taken, or a whole list of them."""

    name: str
    reason: str


class ServerDetail(ServerSummary):
    """Everything about a server but its secrets."""

    embedding: Embedding = None
    tool_functions: dict[str, Any]
    oauth_metadata: JsonObject | None = Field(default=None, alias="oauthMetadata")
    last_error: datetime | None
    error_message: str | None
    auto_expose: str | None = None
    sync_mode: SyncMode
    sync_interval_seconds: int | None = None
    last_sync_started_at: datetime | None = None
    last_sync_completed_at: datetime | None = None
    last_sync_status: Literal["success", "failure"] | None = None
    next_sync_at: datetime | None = None
    webhook: bool | None = Field(default=None, description="Whether its webhook has a secret.")
    on_change: str | None = None
    call_rules: JsonObject | None = None
    default_effect: DefaultEffect = None
    consequence: str | None = Field(
        default=None,
        description="In the answer to a request that gives `defaultEffect`: what that does to the "
        "tools there are now, in words; null if it could not be read.",
    )
    tool_problems: list[ToolProblem] | None = None
    feature_problems: list[FeatureProblemAnswer] | None = None
    document_problems: list[str] | None = Field(
        default=None,
        description="What is stored of it in a way that cannot be read, and what it counts as.",
    )
    notice: str | None = Field(
        default=None, description="Why there are no tools, where that is no failure."
    )
    package: JsonObject | None = Field(
        default=None, description="The package that it runs, where it is a container."
    )
    registry_server_id: str | None = Field(
        default=None, description="The server of the catalog that it is an instance of."
    )
    registry_server_name: str | None = None
    registry_server_description: str | None = None


class UserKey(_Answer):
    """A value that each user gives, and whether the caller has."""

    name: str
    title: str
    description: str
    is_set: bool
    updated_at: datetime | None


class UserKeyCheck(BaseModel):
    """What came of trying the caller's values."""

    accepted: bool | None = Field(
        description="Whether the server takes them; null when that could not be found out."
    )
    message: str


class UserKeys(_Answer):
    """What a server asks its users for."""

    id: str
    server_name: str
    variables: list[UserKey]
    permissions: PermissionFlags
    check: UserKeyCheck | None = Field(
        default=None, description="In the answer to `PUT`, where values were stored."
    )


class UserKeysInput(_Wire):
    """The caller's own values by name; null removes one, `***` leaves it."""

    values: Annotated[dict[VariableName, UserValue | None], Field(min_length=1, max_length=20)]


class ServerList(BaseModel):
    """One page of servers."""

    servers: list[ServerSummary]
    pagination: Pagination


class ToggleResult(_Answer):
    """The server's state after a toggle."""

    id: str
    status: ServerStatus
    enabled: bool
    message: str
    updated_at: datetime
    permissions: PermissionFlags


class ToggleAnswer(ToggleResult):
    """The same, of a server."""

    server_name: str


class NativeTool(BaseModel):
    """A tool as MCP describes it; members beyond these are passed on."""

    model_config = ConfigDict(extra="allow")

    name: str
    description: str | None = None
    inputSchema: JsonObject  # noqa: N815 - MCP's own name


class StoredTools(_Answer):
    """The stored tools of a server in MCP's form."""

    id: str
    tools: list[NativeTool]
    num_tools: int
    capabilities: JsonObject
    cached: Literal[True]
    retrieved_at: datetime | None
    permissions: PermissionFlags


class ServerTools(StoredTools):
    """The same, of a server."""

    server_name: str


class ToolChange(_Answer):
    """What a reading changed of one tool."""

    name: str
    change: ChangeKind
    compatibility: Compatibility = Field(
        description="`breaking` if calls that worked may not work as before."
    )
    reasons: list[str]


class RefreshResult(_Answer):
    """The outcome of asking the upstream again."""

    id: str
    status: ServerStatus
    last_connected: datetime | None
    last_error: datetime | None
    error_message: str | None
    num_tools: int
    capabilities: str | None
    tools: str
    init_duration: float | None
    message: str
    updated_at: datetime | None
    tool_problems: list[ToolProblem] | None = None
    feature_problems: list[FeatureProblemAnswer] | None = None
    permissions: PermissionFlags
    ok: bool = Field(description="Whether the server was read.")
    held_tools: list[str] | None = Field(
        default=None, description="Tools that are new or changed and wait for `accept=true`."
    )
    changes: list[ToolChange] | None = Field(
        default=None, description="What changed, at most 200, what breaks calls first."
    )


class RefreshAnswer(RefreshResult):
    """The same, of a server."""

    server_name: str


class ConnectionAnswer(_Answer):
    """What a tried-out server said."""

    ok: bool
    message: str
    protocol_version: str | None = None
    capabilities: JsonObject | None = None
    tools: list[NativeTool] | None = None
    num_tools: int = 0
    init_duration: int | None = None
    tool_problems: list[ToolProblem] | None = None
    feature_problems: list[FeatureProblemAnswer] | None = None


class ServerStats(BaseModel):
    """Numbers over all servers and tokens."""

    total_servers: int
    servers_by_scope: dict[str, int]
    servers_by_status: dict[str, int]
    servers_by_transport: dict[str, int]
    total_tokens: int
    tokens_by_type: dict[str, int]
    active_tokens: int
    expired_tokens: int
    active_users: int
    total_tools: int
