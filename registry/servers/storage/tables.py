"""The two collections of owners of tools: `mcpservers` and `raw_apis`.

Documents of both have the same fields, and ids are unique across both.
"""

from dataclasses import dataclass

from beanie import Document
from pymongo.asynchronous.collection import AsyncCollection

from packages.database.client import Database, Doc
from packages.models import MCPServer
from packages.models.apis import RawApi
from packages.models.states import SourceType
from registry.servers.values import (
    ApiRecord,
    ServerRecord,
    WholeApiRecord,
    WholeServerRecord,
)


@dataclass(frozen=True, slots=True)
class OwnerTable:
    """One of them.

    Attributes:
        documents: Its class, bound to the database.
        record: What its documents are read as.
        whole: The same with tool functions.
    """

    source_type: SourceType
    documents: type[Document]
    record: type[ServerRecord]
    whole: type[WholeServerRecord]

    @property
    def name(self) -> str:
        """Return the name of the collection."""
        return self.documents.get_collection_name()

    @property
    def collection(self) -> AsyncCollection[Doc]:
        """Return the collection itself, for what documents cannot say."""
        return self.documents.get_pymongo_collection()


class OwnerTables:
    """Both, and which of them an id is in."""

    def __init__(self, database: Database) -> None:
        self.servers = OwnerTable(
            SourceType.MCP, database.document(MCPServer), ServerRecord, WholeServerRecord
        )
        self.apis = OwnerTable(
            SourceType.OPENAPI, database.document(RawApi), ApiRecord, WholeApiRecord
        )
        self._known_apis: set[str] = set()

    @property
    def all(self) -> tuple[OwnerTable, OwnerTable]:
        """Return both."""
        return self.servers, self.apis

    def of(self, source_type: SourceType) -> OwnerTable:
        """Return that of a kind."""
        return self.apis if source_type is SourceType.OPENAPI else self.servers

    def ordered(self, owner_id: str) -> tuple[OwnerTable, OwnerTable]:
        """Return both, first the one that an owner is in as far as this process knows."""
        if owner_id in self._known_apis:
            return self.apis, self.servers
        return self.servers, self.apis

    def note(self, table: OwnerTable, owner_id: str) -> None:
        """Remember that an owner was found in *table*; it never moves to the other."""
        if table is self.apis:
            self._known_apis.add(owner_id)
