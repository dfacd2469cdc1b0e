"""Documents of the catalog, which are ours alone: MCP servers that exist, not those that run here.

`mcpservers_registry` and `tools_registry` hold the servers and their tools, `catalog_versions`
each version of them, `catalog_sources` where they were imported from, `catalog_jobs` what is still
to be done.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

from packages.models.states import CatalogKind, CatalogStatus
from packages.models.syncing import SyncJob

NAME_INDEX = "registry_name"
KEY_INDEX = "registry_match_key"

NonEmptyText = Annotated[str, Field(min_length=1)]


class PackageDocument(BaseModel):
    """What a container server is started from.

    Attributes:
        registry_type: Kind of the package: `oci`, `npm`, `pypi` and others.
        identifier: Its name there, for `oci` with the tag.
    """

    registry_type: NonEmptyText
    identifier: NonEmptyText
    version: str | None = None


class CatalogServer(Document):
    """One server of the catalog: its latest version.

    Attributes:
        name: Unique; what registered servers that are linked to it repeat.
        kind: `remote` has a *url*, `container` a *package*.
        match_key: The normalised form of that one; unique.
        match_keys: Those of all its URLs.
        source: Name of the source that it was imported from; absent where a person made it.
        document: JSON text of the `server.json` of the latest version.
        digest: SHA-256 of what was imported, so that the same is not written twice.
        is_renamed: Whether people renamed it; an import keeps the name then.
        imported_name: Its name in the source.
        link_writes: Counts registered servers that were linked. A link and a rename or removal at
            the same time write the same document, so that one of them is repeated.
        revision: Number of its changes.
    """

    model_config = ConfigDict(extra="allow")

    name: NonEmptyText
    imported_name: str | None = None
    title: str | None = None
    description: str | None = None
    kind: CatalogKind
    url: str | None = None
    package: PackageDocument | None = None
    match_key: NonEmptyText
    match_keys: list[str]
    source: str | None = None
    version: str | None = None
    status: CatalogStatus
    tags: list[str] | None = None
    num_tools: Annotated[int, Field(ge=0)]
    document: NonEmptyText
    digest: str | None = None
    revision: Annotated[int, Field(ge=1)]
    link_writes: int = 0
    published_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    updated_by: dict[str, str] | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "mcpservers_registry"
        keep_nulls = False
        # Either a URL or a package, also for other programs.
        rules: ClassVar[dict[str, Any]] = {
            "anyOf": [
                {
                    "required": ["url"],
                    "properties": {"kind": {"enum": [CatalogKind.REMOTE.value]}},
                    "not": {"required": ["package"]},
                },
                {
                    "required": ["package"],
                    "properties": {"kind": {"enum": [CatalogKind.CONTAINER.value]}},
                    "not": {"required": ["url"]},
                },
            ]
        }
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("name", ASCENDING)], name=NAME_INDEX, unique=True),
            IndexModel([("match_key", ASCENDING)], name=KEY_INDEX, unique=True),
            IndexModel([("match_keys", ASCENDING)]),
            IndexModel([("source", ASCENDING), ("imported_name", ASCENDING)]),
        ]


class CatalogTool(Document):
    """One tool of one server of the catalog.

    Attributes:
        definition: JSON text of the tool object, as far as it is known.
    """

    model_config = ConfigDict(extra="allow")

    server_id: PydanticObjectId
    name: NonEmptyText
    title: str | None = None
    description: str | None = None
    definition: NonEmptyText
    updated_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "tools_registry"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("server_id", ASCENDING), ("name", ASCENDING)], unique=True),
        ]


class CatalogVersion(Document):
    """One version of one server of the catalog.

    Attributes:
        document: JSON text of its `server.json`.
        digest: SHA-256 of what was imported.
    """

    model_config = ConfigDict(extra="allow")

    server_id: PydanticObjectId
    version: NonEmptyText
    status: CatalogStatus
    is_latest: bool
    document: NonEmptyText
    digest: str | None = None
    published_at: datetime | None = None
    updated_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "catalog_versions"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("server_id", ASCENDING), ("version", ASCENDING)], unique=True),
        ]


class CatalogRemoval(Document):
    """A server of the catalog that was removed, or had this name until it was renamed.

    Attributes:
        document: JSON text of the `server.json` of its latest version.
        expires_at: When it is forgotten.
    """

    model_config = ConfigDict(extra="allow")

    name: NonEmptyText
    version: NonEmptyText
    document: NonEmptyText
    published_at: datetime | None = None
    removed_at: datetime
    expires_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "catalog_removals"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("name", ASCENDING)], unique=True),
            IndexModel([("removed_at", ASCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]


class CatalogSource(Document):
    """Where servers of the catalog were imported from.

    Attributes:
        url: Of a registry; absent for files.
        imported_until: What the registry changed later is asked for next.
        last_import_at: When the last import succeeded.
        counts: What it did, by outcome.
    """

    model_config = ConfigDict(extra="allow")

    name: NonEmptyText
    url: str | None = None
    imported_until: datetime | None = None
    last_import_at: datetime | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "catalog_sources"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("name", ASCENDING)], unique=True),
        ]


class CatalogJob(SyncJob):
    """Work on the catalog that survives the process: an import, or links to follow a change.

    `owner_id` is the source of an import, or the server of the catalog that was changed.

    Attributes:
        task: `import` or `links`.
        request: What to import: `url`, `full`, `dry_run`.
        payload: The given document, compressed with zlib, if it is not fetched.
        resume: The cursor of the next page.
        problems: Entries that could not be taken: where, and why.
    """

    task: NonEmptyText
    request: dict[str, Any] | None = None
    payload: bytes | None = None
    resume: str | None = None
    problems: list[dict[str, str]] | None = None

    class Settings(SyncJob.Settings):
        """The collection, and its indexes."""

        name = "catalog_jobs"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("open_owner_id", ASCENDING)], unique=True, sparse=True),
            IndexModel([("due_at", ASCENDING)], sparse=True),
            IndexModel([("state", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=0),
        ]
