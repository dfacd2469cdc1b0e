"""Bodies of the catalog's API: camelCase on the wire, as `server.json` has it."""

import json
from datetime import datetime
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel

from packages.models.states import CatalogKind, CatalogStatus
from registry.access.policy import ServerScope
from registry.catalog.identity import Package, is_name, keys_of, normalised_url
from registry.catalog.presenter import listed_package
from registry.catalog.values import (
    LATEST,
    CatalogContent,
    CatalogFilter,
    CatalogToolInput,
    ImportRequest,
)
from registry.core.json import JsonObject
from registry.core.text import ONE_LINE, ObjectIdText, Tag
from registry.servers.credentials import has_secret
from registry.servers.schemas import (
    Description,
    HeaderName,
    HeaderValue,
    PackageInput,
    ServerName,
    Title,
    Url,
)
from registry.web.pages import PageNumber, Pagination, PerPage


def _name(name: str) -> str:
    if not is_name(name):
        raise ValueError("must be <reversed domain>/<server>, of letters, digits, . _ and -")
    return name


def _version(version: str) -> str:
    if version == LATEST or "/" in version:
        raise ValueError("must be one version, without /, and not `latest`")
    return version


EntryName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=200),
    AfterValidator(_name),
    Field(description="Unique name, usually `<reversed domain>/<server>`."),
]
Version = Annotated[
    str,
    StringConstraints(pattern=ONE_LINE, min_length=1, max_length=255),
    AfterValidator(_version),
]
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
"""The release of `server.json` that entries made here are written in."""


FIRST_VERSION = "1.0.0"


class CatalogPackage(PackageInput):
    """The package that a container server is started from."""

    def package(self) -> Package:
        """Return it as a value."""
        return Package(self.registry_type.lower(), self.identifier, self.version)


class _Wire(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", hide_input_in_errors=True
    )


class CatalogToolBody(_Wire):
    """A tool of a server of the catalog."""

    name: Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=256)]
    title: Title | None = None
    description: Description | None = None
    input_schema: JsonObject | None = None


def _without_secret(url: str) -> str:
    if normalised_url(url) is None or " " in url:
        raise ValueError("must be an HTTP URL with a host, and a port up to 65535 if it has one")
    if has_secret(url):
        raise ValueError("must not contain a secret: everybody who reads the catalog sees it")
    return url


EntryUrl = Annotated[Url, AfterValidator(_without_secret)]


class CatalogServerBody(_Wire):
    """A server of the catalog: one with a URL, or one with a package."""

    name: EntryName
    title: Title | None = None
    description: Description | None = None
    url: EntryUrl | None = None
    package: CatalogPackage | None = None
    version: Version | None = None
    status: CatalogStatus = CatalogStatus.ACTIVE
    tags: Annotated[list[Tag], Field(max_length=50)] = Field(default_factory=list)
    tools: Annotated[list[CatalogToolBody], Field(max_length=2_000)] | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if (self.url is None) == (self.package is None):
            msg = "either url or package is required, and not both"
            raise ValueError(msg)
        return self

    def content(self) -> CatalogContent:
        """Return what is stored of it."""
        package = None if self.package is None else self.package.package()
        document: JsonObject = {"$schema": SCHEMA, "name": self.name}
        if self.title is not None:
            document["title"] = self.title
        document["description"] = self.description or ""
        document["version"] = self.version or FIRST_VERSION
        if self.url is not None:
            document["remotes"] = [{"type": "streamable-http", "url": self.url}]
        if package is not None:
            document["packages"] = [listed_package(package)]
        return CatalogContent(
            name=self.name,
            kind=CatalogKind.REMOTE if package is None else CatalogKind.CONTAINER,
            keys=keys_of([] if self.url is None else [self.url], package),
            document=document,
            url=self.url,
            package=package,
            title=self.title,
            description=self.description,
            version=self.version or FIRST_VERSION,
            status=self.status,
            tags=tuple(self.tags),
            tools=None
            if self.tools is None
            else tuple(
                CatalogToolInput(one.name, one.title, one.description, one.input_schema)
                for one in self.tools
            ),
        )


class CatalogServerPatch(_Wire):
    """What to change of a server of the catalog; only members that are present count."""

    name: EntryName | None = None
    title: Title | None = None
    description: Description | None = None
    url: EntryUrl | None = None
    package: CatalogPackage | None = None
    version: Version | None = None
    status: CatalogStatus | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None
    tools: Annotated[list[CatalogToolBody], Field(max_length=2_000)] | None = None


class CatalogQuery(BaseModel):
    """Parameters of the list."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str | None, Field(max_length=200, pattern=ONE_LINE)] = None
    kind: CatalogKind | None = None
    status: CatalogStatus | None = Field(
        default=None, description="Deleted servers are listed only if this asks for them."
    )
    source: Annotated[str | None, Field(max_length=200, pattern=ONE_LINE)] = None
    tag: Annotated[str | None, Field(max_length=64, pattern=ONE_LINE)] = None
    page: PageNumber = 1
    per_page: PerPage = 20

    def narrowed(self) -> CatalogFilter:
        """Return the filter."""
        return CatalogFilter(self.query, self.kind, self.status, self.source, self.tag)


class CatalogServerSummary(_Wire):
    """A server of the catalog, in lists."""

    id: str
    name: str
    title: str | None
    description: str | None
    kind: CatalogKind
    url: str | None
    package: JsonObject | None
    version: str | None
    status: CatalogStatus
    tags: list[str]
    num_tools: int
    source: str | None
    published_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None


class CatalogToolAnswer(_Wire):
    """A tool of a server of the catalog."""

    name: str
    title: str | None
    description: str | None
    input_schema: JsonObject | None


class CatalogServerAnswer(CatalogServerSummary):
    """Everything about a server of the catalog."""

    tools: list[CatalogToolAnswer]
    server: JsonObject = Field(description="Its `server.json`.")
    linked_servers: int = Field(
        description="Registered servers that are instances of it and that the caller may see."
    )


class CatalogServerList(BaseModel):
    """One page of the catalog."""

    servers: list[CatalogServerSummary]
    pagination: Pagination


class CatalogVersionAnswer(_Wire):
    """A version of a server of the catalog."""

    version: str
    status: CatalogStatus
    is_latest: bool
    published_at: datetime | None
    updated_at: datetime | None
    server: JsonObject


class CatalogVersionList(BaseModel):
    """All versions of a server of the catalog, the latest first."""

    versions: list[CatalogVersionAnswer]


class CatalogSourceAnswer(_Wire):
    """Where servers of the catalog were imported from."""

    id: str
    name: str | None
    url: str | None
    last_import_at: datetime | None
    imported_until: datetime | None
    counts: dict[str, int]


class CatalogSourceList(BaseModel):
    """All sources."""

    sources: list[CatalogSourceAnswer]


InputName = Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=200)]
InputValue = Annotated[str, StringConstraints(pattern=ONE_LINE, min_length=1, max_length=8192)]
Inputs = Annotated[dict[InputName, InputValue], Field(max_length=50)]


class RegisterBody(_Wire):
    """How a server of the catalog is registered: its variables and headers, by name."""

    server_name: ServerName | None = None
    scope: ServerScope = ServerScope.PRIVATE_USER
    remote: Annotated[
        int | None,
        Field(
            ge=0,
            le=1_000,
            description="Which of its `remotes`, from 0; by default the first of "
            "`streamable-http`, or else of `sse`.",
        ),
    ] = None
    package: Annotated[
        int | None,
        Field(
            ge=0,
            le=1_000,
            description="Which of its `packages`, from 0, is recorded in place of a remote: it "
            "runs elsewhere, and is not started here.",
        ),
    ] = None
    variables: Inputs = Field(default_factory=dict)
    headers: Inputs = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_remote_or_package(self) -> Self:
        if self.remote is not None and self.package is not None:
            msg = "either remote or package can be given, and not both"
            raise ValueError(msg)
        return self


class MatchBody(_Wire):
    """Which registered servers are matched anew; all that the caller may change by default."""

    server_ids: Annotated[list[ObjectIdText], Field(min_length=1, max_length=1_000)] | None = None


class MatchProblem(_Wire):
    """A server that could not be matched."""

    server_name: str
    message: str


class MatchAnswer(_Wire):
    """What became of the links."""

    linked: int
    relinked: int
    unlinked: int
    unchanged: int
    failed: int
    problems: list[MatchProblem]


class ImportOptions(_Wire):
    """What to import, and how."""

    source: Annotated[
        str,
        StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=200),
        Field(description="Name of the source; a second import of it updates its entries."),
    ]
    url: Url | None = None
    full: bool = Field(
        default=False, description="Ask a registry for all entries, not for changed ones alone."
    )
    dry_run: bool = False


class ImportCommand(ImportOptions):
    """What a command imports: headers are sent and not stored."""

    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=20)] = Field(
        default_factory=dict
    )


class ImportBody(ImportOptions):
    """What to import: a registry or file at a URL, or a document."""

    document: JsonValue = Field(
        default=None, description="The content of a file, if it is not fetched."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.url is None) == (self.document is None):
            msg = "either url or document is required, and not both"
            raise ValueError(msg)
        return self

    def asked(self) -> ImportRequest:
        """Return the request."""
        document = None
        if self.document is not None:
            document = json.dumps(self.document).encode()
        return ImportRequest(self.source, self.url, document, self.full, self.dry_run)


class ImportProblem(_Wire):
    """An entry that was not taken."""

    place: str
    reason: str


class ImportAnswer(_Wire):
    """An import, and how far it is."""

    id: str
    source: str
    state: str
    url: str | None
    dry_run: bool
    counts: dict[str, int]
    problems: list[ImportProblem]
    error: str | None
    attempts: int
    created_at: datetime
    finished_at: datetime | None


class ImportAccepted(ImportAnswer):
    """An import that was asked for."""

    already_open: bool = Field(description="Whether an import of the source was already open.")


class ImportList(BaseModel):
    """The latest imports, newest first."""

    imports: list[ImportAnswer]
