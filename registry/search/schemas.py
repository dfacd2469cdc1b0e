"""Body and answer of a search: snake_case, as the records are stored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from registry.core.text import Tag
from registry.search.ports import Kind
from registry.search.values import Filters, SearchQuestion

MAX_QUERY_CHARACTERS = 10_000
MAX_LIMIT = 100
MAX_TAGS = 20

Name = Annotated[str, Field(min_length=1, max_length=300)]


class SearchFilters(BaseModel):
    """What hits must be; what is left out may be anything."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["active", "error", "deprecated"] | None = Field(
        default=None,
        description="Of the server: `active` or `error`; of a catalog entry: `active` "
        "or `deprecated`. Servers that are off, and deleted entries, are never found.",
    )
    server: Name | None = Field(
        default=None, description="Id or name of a server: itself, and its tools."
    )
    tag: Annotated[list[Tag] | Tag, Field(max_length=MAX_TAGS)] = Field(
        default_factory=list, description="A tag, or several that hits must all have."
    )
    read_only: bool | None = Field(
        default=None, description="Tools that are known to change nothing, or to change something."
    )
    source_type: Literal["mcp", "openapi"] | None = Field(
        default=None, description="Of the server: an MCP server or a REST API."
    )
    catalog: Name | None = Field(
        default=None,
        description="Id or name of a catalog entry: itself, and the servers that are linked to "
        "it, with their tools.",
    )


class SearchRequest(BaseModel):
    """What to look for, and where."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS)] = Field(
        description="What is needed, in words; names and beginnings of words will do.",
        examples=["send a message to a channel"],
    )
    kinds: list[Kind] = Field(
        default_factory=list,
        max_length=len(Kind),
        description="What to look for; by default everything that the token may read, but for "
        "`catalog_tool`. Needs `read:tools` for tools, `read:servers` for servers, `read:catalog` "
        "for catalog entries and their tools, which cannot be called before one is registered.",
    )
    filters: SearchFilters = Field(default_factory=SearchFilters)
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 10
    explain: bool = Field(default=False, description="Whether hits say how they were scored.")

    @field_validator("query")
    @classmethod
    def _not_empty(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("must contain something to look for")
        return query

    def question(self) -> SearchQuestion:
        """Return the search."""
        given = self.filters
        tags = [given.tag] if isinstance(given.tag, str) else given.tag
        return SearchQuestion(
            self.query,
            Filters(
                kinds=frozenset(self.kinds),
                status=given.status,
                server=given.server,
                tags=tuple(tags),
                read_only=given.read_only,
                source_type=given.source_type,
                catalog=given.catalog,
            ),
            self.limit,
        )


class SearchExplanation(BaseModel):
    """How a hit was scored."""

    words: list[str] = Field(
        description="The words of the query that it contains, without their endings."
    )
    bm25: float = Field(description="Score by words.")
    cosine: float | None = Field(
        description="Likeness of meaning; null where the query or the hit has no vector."
    )
    exact_name: bool = Field(description="Whether the query is its name, which comes first.")
    fused: float = Field(description="The score: both stretched over all that you may see.")


class SearchHit(BaseModel):
    """Something that was found."""

    kind: Kind
    id: str | None = Field(
        description="ObjectId; null for a tool of the catalog, and for one that only the other "
        "application has described."
    )
    name: str
    combined_name: str | None = Field(description="Of a tool: its name at `/mcp`.")
    server: dict[str, Any] | None = Field(description="Of a tool or server: `id` and `name`.")
    catalog: dict[str, Any] | None = Field(
        description="`id` and `name` of the catalog entry that it is, is of, or is linked to."
    )
    title: str | None
    description: str | None
    score: float = Field(description="Comparable within one answer; higher is better.")
    explanation: SearchExplanation | None = Field(
        default=None, description="Only if it was asked for."
    )


class SearchResults(BaseModel):
    """What was found, best first."""

    hits: list[SearchHit]
    model: str | None = Field(
        description="Model whose vectors counted; null for a search by words alone."
    )
