"""Bodies of the API of REST APIs: those of servers, with a description in place of a transport."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import override

from registry.access.policy import ServerScope
from registry.access.schemas import PermissionFlags
from registry.connections.values import ConnectionState
from registry.core.json import JsonObject
from registry.core.text import ONE_LINE
from registry.openapi.bundles import MAX_FILES, is_name
from registry.servers.schemas import (
    ApiKeyInput,
    ApiKeyView,
    CallRulesInput,
    DefaultEffect,
    NativeTool,
    OnChangePolicy,
    Path,
    ReadOnly,
    RefreshResult,
    ServerCreate,
    ServerName,
    ServerUpdate,
    StoredTools,
    SyncInterval,
    Tags,
    ToggleResult,
    ToolProblem,
    Url,
    _ConfigInput,
)
from registry.servers.values import ServerStatus, SyncMode, Transport
from registry.tools.exposure import AutoExpose
from registry.tools.naming import RESERVED_SLUGS
from registry.web.embedding import Embedding
from registry.web.pages import Pagination

MAX_DOCUMENT_CHARACTERS = 16 * 1024 * 1024
UNKNOWN_URL = "https://unknown.invalid"
"""Stands for the URL of an API until its description names it; never contacted."""

RuleText = Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=512)]
Method = Literal["get", "put", "post", "delete", "options", "head", "patch", "trace", "query"]


class OperationRule(BaseModel):
    """Which operations it is about: those to which everything applies that it says."""

    model_config = ConfigDict(extra="forbid")

    tag: RuleText | None = None
    path: RuleText | None = Field(default=None, description="`*` stands for any characters.")
    method: Method | None = None
    id: RuleText | None = Field(default=None, description="The `operationId`.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            msg = "needs a tag, a path, a method or an id"
            raise ValueError(msg)
        return self


Rules = Annotated[list[OperationRule], Field(max_length=200)]


class Operations(BaseModel):
    """Which operations become tools: those that *include* names, or all, without *exclude*."""

    model_config = ConfigDict(extra="forbid")

    include: Rules = Field(default_factory=list)
    exclude: Rules = Field(default_factory=list)


class ApiKeyOfApi(ApiKeyInput):
    """How to authenticate to an API: a key in a header, a query parameter or a cookie."""

    location: Literal["header", "query", "cookie"] = Field(
        default="header", description="Where a custom key is sent, as `custom_header`."
    )

    @property
    @override
    def place(self) -> Literal["header", "query", "cookie"]:
        """Return where the key is sent."""
        return self.location

    @model_validator(mode="after")
    def _only_custom_keys_have_places(self) -> Self:
        if self.location != "header" and self.authorization_type != "custom":
            msg = "location is for keys with authorization_type custom"
            raise ValueError(msg)
        return self


Document = Annotated[str, Field(min_length=1, max_length=MAX_DOCUMENT_CHARACTERS)]


def _is_file_name(value: str) -> str:
    if not is_name(value):
        msg = "must be a relative path with slashes, without . and .. and without %, ?, # and :"
        raise ValueError(msg)
    return value


FileName = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_is_file_name)]


class _ApiInput(_ConfigInput):
    api_key: ApiKeyOfApi | None = None
    url: Url | None = Field(default=None, description="Where the OpenAPI description is.")
    document: Document | None = Field(
        default=None, description="The description itself, JSON or YAML."
    )
    files: Annotated[dict[FileName, Document], Field(max_length=MAX_FILES)] | None = Field(
        default=None,
        description="The other files of `document`, JSON or YAML, by path from its folder.",
    )
    document_name: FileName | None = Field(
        default=None,
        description="The path of `document` itself, where the other files refer to it; "
        "openapi.yaml when not given.",
    )
    base_url: Url | None = Field(
        default=None,
        description="Where calls go; what the description names as its server when not given. "
        "Credentials are sent to its origin only.",
    )
    operations: Operations | None = None

    @model_validator(mode="after")
    def _files_belong_to_a_document(self) -> Self:
        if self.document is None and (self.files or self.document_name):
            msg = "`files` and `documentName` are given with `document`"
            raise ValueError(msg)
        texts = (self.document or "", *(self.files or {}).values())
        if sum(map(len, texts)) > MAX_DOCUMENT_CHARACTERS:
            msg = f"`document` and `files` have more than {MAX_DOCUMENT_CHARACTERS:,} characters"
            raise ValueError(msg)
        return self


def _server_fields(request: BaseModel, model: type[BaseModel]) -> dict[str, Any]:
    """Return what was given of *request* that a body of a server has, too."""
    own = {"url", "document", "files", "document_name", "base_url", "operations"}
    return {
        name: getattr(request, name)
        for name in request.model_fields_set - own
        if name in model.model_fields
    }


class ApiCreate(_ApiInput):
    """A REST API to register."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "petstore",
                    "title": "Pet Store",
                    "url": "https://petstore3.swagger.io/api/v3/openapi.json",
                    "operations": {"include": [{"method": "get"}]},
                    "tags": ["pets"],
                }
            ]
        }
    )

    server_name: ServerName = Field(alias="name")
    scope: ServerScope = ServerScope.PRIVATE_USER
    tags: Tags = Field(default_factory=list)
    path: Path | None = None
    auto_expose: AutoExpose = AutoExpose.ALL
    on_change: OnChangePolicy = None
    call_rules: CallRulesInput | None = None
    default_effect: DefaultEffect = None
    sync_mode: SyncMode = SyncMode.MANUAL
    sync_interval_seconds: SyncInterval = None

    @model_validator(mode="after")
    def _has_one_description(self) -> Self:
        if (self.url is None) == (self.document is None):
            msg = "needs `url` or `document`, and not both"
            raise ValueError(msg)
        slug = self.server_name if self.path is None else self.path.removeprefix("/mcp/")
        if slug.lower() in RESERVED_SLUGS:
            msg = f"the gateway path /mcp/{slug} is reserved"
            raise ValueError(msg)
        return self

    def as_server(self) -> ServerCreate:
        """Return the server that it is to everything that knows servers."""
        fields = _server_fields(self, ServerCreate)
        return ServerCreate(**fields, url=self.base_url or UNKNOWN_URL, type=Transport.OPENAPI)


class ApiPreview(_ApiInput):
    """A REST API to look at; nothing is stored."""

    @model_validator(mode="after")
    def _has_one_description(self) -> Self:
        if (self.url is None) == (self.document is None):
            msg = "needs `url` or `document`, and not both"
            raise ValueError(msg)
        return self

    def as_server(self) -> ServerCreate:
        """Return the server that it would be."""
        fields = _server_fields(self, ServerCreate)
        return ServerCreate(
            **fields,
            server_name="preview",
            url=self.base_url or UNKNOWN_URL,
            type=Transport.OPENAPI,
        )


class ApiUpdate(_ApiInput):
    """What to change; only members that are present count, and null removes an optional one.

    A whole answer may be sent back: read-only members are accepted if they are unchanged.
    """

    scope: ServerScope | None = None
    status: ServerStatus | None = None
    auto_expose: AutoExpose | None = None
    on_change: OnChangePolicy = None
    call_rules: CallRulesInput | None = None
    default_effect: DefaultEffect = None
    sync_mode: SyncMode | None = None
    sync_interval_seconds: SyncInterval = None
    tags: Tags | None = None
    path: Path | None = None
    updated_at: AwareDatetime | None = Field(
        default=None, description="The `updatedAt` that was read; 409 when it moved on since."
    )

    id: ReadOnly = None
    name: ReadOnly = None
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
    tools: ReadOnly = None
    init_duration: ReadOnly = None
    tool_problems: ReadOnly = None
    feature_problems: ReadOnly = None
    document_problems: ReadOnly = None
    permissions: ReadOnly = None
    notice: ReadOnly = None
    last_sync_started_at: ReadOnly = None
    last_sync_completed_at: ReadOnly = None
    last_sync_status: ReadOnly = None
    next_sync_at: ReadOnly = None
    webhook: ReadOnly = None
    openapi: ReadOnly = None
    oauth_metadata: ReadOnly = Field(default=None, alias="oauthMetadata")

    def as_server(self) -> ServerUpdate:
        """Return the same change of the server that it is to everything that knows servers."""
        read_only = {
            name
            for name, field in ServerUpdate.model_fields.items()
            if isinstance(field.json_schema_extra, Mapping)
            and field.json_schema_extra.get("readOnly")
        }
        fields = _server_fields(self, ServerUpdate)
        fields = {name: value for name, value in fields.items() if name not in read_only}
        if self.base_url is not None:
            fields["url"] = self.base_url
        return ServerUpdate(**fields)


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class ApiKeyOfApiView(ApiKeyView):
    """How the API is authenticated to; the key itself is always masked."""

    location: str | None = None


class OpenApiFacts(_Answer):
    """What was read of the description, beside its operations."""

    version: str | None = Field(default=None, description="Of OpenAPI, or of Swagger.")
    title: str | None = None
    api_version: str | None = None
    hash: str | None = Field(default=None, description="SHA-256 of the description.")
    operations: int | None = Field(default=None, description="How many it describes.")
    server: str | None = Field(default=None, description="What it names as its server.")
    security_schemes: JsonObject | None = None


class ApiSummary(_Answer):
    """A REST API in a list."""

    id: str
    name: str
    title: str | None = None
    description: str | None = None
    url: str | None = Field(default=None, description="Where the description is fetched.")
    base_url: str | None = None
    api_key: ApiKeyOfApiView | None = None
    requires_oauth: bool = Field(alias="requiresOAuth")
    oauth: dict[str, Any] | None = None
    operations: Operations | None = None
    openapi: OpenApiFacts | None = None
    tools: str = Field(description="Tool names, joined with `, `.")
    author: str
    scope: ServerScope
    status: ServerStatus
    path: str
    tags: list[str]
    num_tools: int
    permissions: PermissionFlags
    connection_state: ConnectionState = Field(alias="connection_state")


class ApiDetail(ApiSummary):
    """Everything about a REST API but its secrets."""

    embedding: Embedding = None
    error_message: str | None = None
    tool_problems: list[ToolProblem] | None = Field(
        default=None,
        description="Operations and parts of the description that could not be taken.",
    )


class ApiList(BaseModel):
    """One page of REST APIs."""

    apis: list[ApiSummary]
    pagination: Pagination


class ApiCredentials(_Answer):
    """What calls send as credentials."""

    sent_as: list[str] = Field(
        description="`header X-Key`, `query parameter key`, `cookie sid`, `HTTP basic`, `bearer "
        "token`, or whose OAuth access token."
    )
    not_sent_by: list[str] = Field(
        description="Tools whose operations need none, says the description (`security: []`)."
    )


class ApiPreviewAnswer(_Answer):
    """What would become of a description."""

    base_url: str
    openapi: OpenApiFacts
    tools: list[NativeTool]
    num_tools: int
    credentials: ApiCredentials
    tool_problems: list[ToolProblem] | None = None


class ApiToggle(ToggleResult):
    """The state of an API after a toggle."""

    name: str


class ApiTools(StoredTools):
    """The stored tools of an API in MCP's form."""

    name: str
    credentials: ApiCredentials


class ApiRefresh(RefreshResult):
    """The outcome of reading the description again."""

    name: str
