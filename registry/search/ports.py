"""What search asks of others, and what others ask of search.

numpy is imported for type checkers alone: a process without search does not load it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from registry.auth.identity import UserContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32]
    """One embedding, normalised to length 1."""
else:
    Vector = Any


class Kind(StrEnum):
    """What can be found."""

    TOOL = "tool"
    SERVER = "server"
    CATALOG = "catalog"
    CATALOG_TOOL = "catalog_tool"


class DocumentKey(NamedTuple):
    """Identifies a searchable document, on every replica alike.

    Attributes:
        id: ObjectId of its document, 24 hexadecimal characters. A tool that only the other
            application has described has no document: `<server id>/<tool name>`. A tool of the
            catalog has one that an import replaces: `<entry id>/<tool name>`.
    """

    kind: Kind
    id: str


class CatalogLink(NamedTuple):
    """The catalog entry that a registered server is linked to."""

    id: str
    name: str


class Traits(NamedTuple):
    """What documents are filtered by; many share one object.

    Attributes:
        status: Of the server, or of the catalog entry.
        source_type: Of the server; empty for catalog entries.
        read_only: Whether a tool changes nothing; None if unknown, and for other kinds.
        catalog: Of the server, or the entry itself.
    """

    status: str = ""
    source_type: str = ""
    read_only: bool | None = None
    catalog: CatalogLink | None = None


NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True)
class SearchDocument:
    """What search knows of a document.

    Attributes:
        name: As its owner calls it.
        context: What names its surroundings: for a tool, its server's linked catalog entry, or
            else the server itself; empty for others.
        server_id: Of a tool, its server; of a server, itself; of a catalog entry, None.
        server_name: Of a tool, what its server is called here.
        slug: Of a tool or a server, the last part of the server's gateway path.
        tools: Of a server, the names of its tools.
    """

    key: DocumentKey
    name: str
    title: str | None = None
    description: str | None = None
    context: str = ""
    server_id: str | None = None
    server_name: str | None = None
    slug: str | None = None
    tags: tuple[str, ...] = ()
    tools: tuple[str, ...] = field(default=(), repr=False)
    traits: Traits = NO_TRAITS

    def is_worded_as(self, other: "SearchDocument") -> bool:
        """Whether it is found by the same texts."""
        return (
            self.name == other.name
            and self.title == other.title
            and self.description == other.description
            and self.context == other.context
            and self.tags == other.tags
            and self.tools == other.tools
        )


class Audience(Protocol):
    """What callers may find, by the decisions that `tools/list` follows.

    Implemented by `registry.gateway.view.search_feed`.
    """

    def candidates(self, user: UserContext) -> "Candidates":
        """Return the tools that `tools/list` at `/mcp` shows to *user*, and the servers of theirs.

        One object as long as nothing changes.

        Raises:
            RegistryError: What is known is too old to be shown.
        """

    async def caught_up(self) -> None:
        """Wait, for a moment at most, until the index has what the gateway serves now."""


class QueryVectors(Protocol):
    """Embeds queries. Implemented by `registry.search.embedding`, and by `NoVectors`."""

    @property
    def model(self) -> str | None:
        """Return the id of the model in use; None without one."""

    async def embed_query(self, text: str) -> Vector | None:
        """Return the vector of a query.

        None if there is no model, or it is busy or has failed: search is by words alone then.
        Never raises. *text* has at most `ranking.MAX_QUERY_CHARACTERS` characters.
        """


class NoVectors:
    """Search by words alone. Implements `QueryVectors`."""

    model: str | None = None

    async def embed_query(self, text: str) -> Vector | None:  # noqa: ARG002 - as of others
        """Return None."""
        return None


class VectorIndex(Protocol):
    """The part of the search index that the maker of vectors sees.

    Implemented by `registry.search.index.SearchIndex`. All of it runs on the event loop and takes
    no I/O.
    """

    def documents(self, keys: Iterable[DocumentKey] | None = None) -> Iterable[SearchDocument]:
        """Return the indexed documents with these keys, or all. Unknown keys are left out."""

    async def changed(self, seen: int) -> "Changed":
        """Wait until the index has another version than *seen*; return what has changed since.

        With a *seen* of 0, or one that is too long ago, everything is reported as changed.
        """

    def put_vectors(self, vectors: Mapping[DocumentKey, Vector], *, model: str) -> None:
        """Use composed and normalised vectors from the next query on.

        Vectors of another *model* than those before replace them all: while only some documents
        have one, the others are ranked by words. Keys that are not indexed are ignored. Give many
        at once: each call copies the blocks of vectors that it touches.
        """

    def drop_vectors(self, keys: Iterable[DocumentKey]) -> None:
        """Rank these documents by words alone."""

    def missing_vectors(self) -> Sequence[DocumentKey]:
        """Return the keys of the documents that have no vector."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What has changed in the index.

    Attributes:
        version: To be passed to the next call.
        put: Documents that are new, or whose texts have changed. Those whose texts have changed
            have kept their vectors.
        gone: Documents that are not indexed any more; their vectors are dropped already.
    """

    version: int
    put: Collection[DocumentKey]
    gone: Collection[DocumentKey]


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """What one caller may find: a mask over the index, applied before anything is ranked.

    Keep it with the view that it was made from, as the mask is cached by its identity.

    Attributes:
        tools: By the id of each server, the names, as the server has them, of the tools that the
            caller's `tools/list` shows. Where they are the mapping that the gateway serves the
            server's tools from, no name is looked at.
        servers: Ids of the servers that the caller may find.
        catalog: Ids of the catalog entries that the caller may find; None for all.
    """

    tools: Mapping[str, Collection[str]] = field(default_factory=dict)
    servers: Collection[str] = ()
    catalog: Collection[str] | None = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a score came about.

    Attributes:
        words: The words of the query that the document contains, as they were looked up.
        bm25: The score by words.
        cosine: Of the vectors of query and document; None if one of them has none.
        is_exact: Whether the query is the document's name.
        fused: The sum that decides.
    """

    words: tuple[str, ...]
    bm25: float
    cosine: float | None
    is_exact: bool
    fused: float


@dataclass(frozen=True, slots=True)
class FoundTool:
    """One result of `ToolFinder.find`.

    Attributes:
        server_id: The server that has the tool.
        name: As the server has it.
        score: Comparable within one answer; higher is better.
        explanation: How it came about.
    """

    key: DocumentKey
    server_id: str
    name: str
    score: float
    explanation: Explanation


class CatalogRow(Protocol):
    """What search needs of a catalog entry. Implemented by `registry.catalog.values`."""

    @property
    def id(self) -> str:
        """Return its ObjectId."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def title(self) -> str | None:
        """Return its name for people."""

    @property
    def description(self) -> str | None:
        """Return what it is for."""

    @property
    def tags(self) -> Sequence[str]:
        """Return its tags."""

    @property
    def status(self) -> str:
        """Return `active`, `deprecated` or `deleted`."""

    @property
    def num_tools(self) -> int:
        """Return how many tools are known of it."""


class CatalogTool(Protocol):
    """What search needs of a tool of a catalog entry."""

    @property
    def server_id(self) -> str | None:
        """Return the ObjectId of its entry."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def title(self) -> str | None:
        """Return its name for people."""

    @property
    def description(self) -> str | None:
        """Return what it does."""


class CatalogTools(Protocol):
    """The tools of catalog entries. Implemented by `registry.catalog.repository`."""

    async def tools_of(self, ids: Sequence[str]) -> Sequence[CatalogTool]:
        """Return the tools of these entries.

        Raises:
            DatabaseUnavailable: They cannot be read now.
        """


class CatalogRows(Protocol):
    """The catalog entries in memory. Implemented by `registry.catalog.table`."""

    def subscribe(self, listener: Callable[[AbstractSet[str]], None]) -> None:
        """Call *listener* with the ids of entries that were added, changed or removed."""

    def rows(self, ids: Iterable[str] | None = None) -> Sequence[CatalogRow]:
        """Return the entries with these ids, or all."""


class ToolFinder(Protocol):
    """Finds tools for a description. Implemented by `registry.search.service`."""

    async def find(
        self, description: str, keywords: str | None, candidates: Candidates, limit: int
    ) -> Sequence[FoundTool]:
        """Return the best of a caller's tools, best first.

        Args:
            description: What is wanted, in words.
            keywords: Searched by words in place of the description, if there are any.
            candidates: What the caller's `tools/list` shows; nothing else is found.
            limit: Maximum number of results.
        """
