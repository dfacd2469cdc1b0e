"""Values of the catalog domain. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import orjson
from pydantic import Field, PlainValidator

from packages.database.stored import (
    Projection,
    RequiredId,
    StoredCounts,
    StoredId,
    StoredText,
    StoredTexts,
    StoredTime,
    WholeOrZero,
    text_of,
)
from packages.models.states import CatalogKind, CatalogStatus
from registry.catalog.identity import Package
from registry.core import search
from registry.core.json import JsonObject, choice_of, members

LATEST = "latest"
"""The version that every server has, in the official registry's API."""


def _required_text(stored: object) -> str:
    if isinstance(stored, str) and stored:
        return stored
    raise ValueError("is no text")


def _kind(stored: object) -> CatalogKind:
    found = choice_of(CatalogKind, stored)
    if found is None:
        raise ValueError("is no kind")
    return found


def _status(stored: object) -> CatalogStatus:
    # What another program wrote is not offered as if it were good.
    return choice_of(CatalogStatus, stored) or CatalogStatus.DEPRECATED


def package_of(stored: object) -> Package | None:
    """Return a stored package; None if it is none."""
    row = members(stored)
    kind, identifier = text_of(row.get("registry_type")), text_of(row.get("identifier"))
    if not kind or not identifier:
        return None
    return Package(kind, identifier, text_of(row.get("version")))


class CatalogRow(Projection):
    """A server of the catalog, as lists show it."""

    id: Annotated[RequiredId, Field(alias="_id")]
    name: Annotated[str, PlainValidator(_required_text)]
    title: StoredText = None
    description: StoredText = None
    kind: Annotated[CatalogKind, PlainValidator(_kind)]
    url: StoredText = None
    package: Annotated[Package | None, PlainValidator(package_of)] = None
    match_keys: StoredTexts = ()
    source: StoredText = None
    version: StoredText = None
    status: Annotated[CatalogStatus, PlainValidator(_status)] = CatalogStatus.ACTIVE
    tags: StoredTexts = ()
    num_tools: WholeOrZero = 0
    revision: WholeOrZero = 0
    published_at: StoredTime = None
    created_at: StoredTime = None
    updated_at: StoredTime = None

    @property
    def text(self) -> str:
        """Return its search text."""
        return search.searchable([self.name], [self.title], self.tags, [self.description])

    @property
    def etag(self) -> str:
        """Return what an unchanged server keeps."""
        return f"{self.id}-{self.revision}"


class CatalogEntry(CatalogRow):
    """A server of the catalog with its `server.json`.

    Attributes:
        document: JSON text of the latest version's `server.json`.
        digest: SHA-256 of what was imported.
        imported_name: Its name in the source.
        link_writes: How often registered servers were linked to it.
    """

    document: StoredText = None
    digest: StoredText = None
    imported_name: StoredText = None
    link_writes: WholeOrZero = 0

    @property
    def server_json(self) -> JsonObject:
        """Return the `server.json`; empty if it cannot be read."""
        return json_text(self.document)


def json_text(stored: str | None) -> JsonObject:
    """Return a stored JSON text as an object; empty if it is none."""
    try:
        return members(orjson.loads(stored or "{}"))
    except orjson.JSONDecodeError:
        return {}


class CatalogToolRow(Projection):
    """A tool of a server of the catalog."""

    server_id: StoredId = None
    name: Annotated[str, PlainValidator(_required_text)]
    title: StoredText = None
    description: StoredText = None
    definition: StoredText = None


class CatalogVersionRow(Projection):
    """A version of a server of the catalog."""

    server_id: StoredId = None
    version: Annotated[str, PlainValidator(_required_text)]
    status: Annotated[CatalogStatus, PlainValidator(_status)] = CatalogStatus.ACTIVE
    is_latest: Annotated[bool, PlainValidator(lambda stored: stored is True)] = False
    document: StoredText = None
    digest: StoredText = None
    published_at: StoredTime = None
    updated_at: StoredTime = None


class CatalogRemovalRow(Projection):
    """What is left of a server of the catalog that was removed or renamed."""

    name: Annotated[str, PlainValidator(_required_text)]
    version: Annotated[str, PlainValidator(_required_text)]
    document: StoredText = None
    published_at: StoredTime = None
    removed_at: StoredTime = None


class VersionDigest(Projection):
    """What tells whether a version of a server of the catalog is stored."""

    server_id: StoredId = None
    version: Annotated[str, PlainValidator(_required_text)]
    digest: StoredText = None


class CatalogHead(Projection):
    """What tells whether a server of the catalog changed."""

    id: Annotated[RequiredId, Field(alias="_id")]
    revision: WholeOrZero = 0


class KnownEntry(Projection):
    """What an import knows of a server that is in the catalog."""

    id: Annotated[RequiredId, Field(alias="_id")]
    name: StoredText = None
    imported_name: StoredText = None
    source: StoredText = None
    version: StoredText = None
    digest: StoredText = None
    published_at: StoredTime = None
    match_key: StoredText = None
    match_keys: StoredTexts = ()


class SourceRow(Projection):
    """Where servers were imported from."""

    id: Annotated[RequiredId, Field(alias="_id")]
    name: StoredText = None
    url: StoredText = None
    imported_until: StoredTime = None
    last_import_at: StoredTime = None
    counts: StoredCounts = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CatalogToolInput:
    """A tool to store with a server of the catalog.

    Attributes:
        whole: The tool object, where all of it is known.
    """

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: JsonObject | None = None
    whole: JsonObject | None = None

    @property
    def definition(self) -> JsonObject:
        """Return the tool object, as far as it is known."""
        if self.whole is not None:
            return self.whole
        known: JsonObject = {"name": self.name}
        if self.title is not None:
            known["title"] = self.title
        if self.description is not None:
            known["description"] = self.description
        if self.input_schema is not None:
            known["inputSchema"] = self.input_schema
        return known


@dataclass(frozen=True, slots=True)
class CatalogContent:
    """What a server of the catalog is, before it is stored.

    Attributes:
        keys: Those of `identity`; the first is its own.
        document: Its `server.json`.
        tools: None where nothing is said about them.
    """

    name: str
    kind: CatalogKind
    keys: tuple[str, ...]
    document: JsonObject
    url: str | None = None
    package: Package | None = None
    title: str | None = None
    description: str | None = None
    version: str | None = None
    status: CatalogStatus = CatalogStatus.ACTIVE
    tags: tuple[str, ...] = ()
    tools: tuple[CatalogToolInput, ...] | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CatalogFilter:
    """Filter of a list of servers of the catalog; deleted ones are listed if asked for."""

    query: str | None = None
    kind: CatalogKind | None = None
    status: CatalogStatus | None = None
    source: str | None = None
    tag: str | None = None

    def takes(self, row: CatalogRow) -> bool:
        """Whether a server passes, its text apart."""
        if self.status is None and row.status is CatalogStatus.DELETED:
            return False
        return (
            self.kind in {None, row.kind}
            and self.status in {None, row.status}
            and self.source in {None, row.source}
            and (self.tag is None or self.tag in row.tags)
        )


@dataclass(frozen=True, slots=True)
class CatalogSeen:
    """A server of the catalog with its tools, and how many registered servers are linked to it."""

    entry: CatalogEntry
    tools: Sequence[CatalogToolRow] = ()
    linked: int | None = None


@dataclass(frozen=True, slots=True)
class MatchReport:
    """Result of matching registered servers anew.

    Attributes:
        counts: Servers by outcome: `linked`, `relinked`, `unlinked`, `unchanged`, `failed`.
        problems: Names of servers that could not be matched, with the reasons.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to import: the registry or file at *url*, or *document*.

    Attributes:
        source: Name of the source; its entries are known by it.
        full: Ask for all entries, also for those that were there at the last import.
        dry_run: Count, and write nothing.
        headers: Credentials for the origin of *url*. They are not stored: a job has none.
    """

    source: str
    url: str | None = None
    document: bytes | None = field(default=None, repr=False)
    full: bool = False
    dry_run: bool = False
    headers: Mapping[str, str] | None = field(default=None, repr=False)
