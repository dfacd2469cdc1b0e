"""Parameters and answers of the official registry's API, as it has them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from registry.catalog.subregistry.service import ListFilter
from registry.core.cursor import in_utc
from registry.core.json import JsonObject
from registry.core.text import ONE_LINE

MAX_LIMIT = 100


class ServersQuery(BaseModel):
    """Parameters of the list."""

    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str | None, Field(max_length=2_000, pattern=ONE_LINE)] = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 30
    search: Annotated[
        str | None,
        Field(max_length=200, pattern=ONE_LINE, description="Part of a name, in any case."),
    ] = None
    updated_since: Annotated[
        AwareDatetime | None,
        Field(description="Versions that changed since then, also deleted ones."),
    ] = None
    version: Annotated[
        Literal["latest"] | None, Field(description="`latest`: one version of each server.")
    ] = None
    include_deleted: bool = False

    def narrowed(self) -> ListFilter:
        """Return the filter.

        Raises:
            MomentOutOfRangeError: The time lies outside of the calendar in UTC.
        """
        since: datetime | None = in_utc("updated_since", self.updated_since)
        return ListFilter(
            search=None if self.search is None else self.search.casefold(),
            since=since,
            only_latest=self.version is not None,
            with_deleted=self.include_deleted or since is not None,
        )


class VersionsQuery(BaseModel):
    """Parameters of one server."""

    model_config = ConfigDict(extra="forbid")

    include_deleted: bool = False


class RegistryServer(BaseModel):
    """One version of a server."""

    model_config = ConfigDict(populate_by_name=True)

    server: JsonObject = Field(description="Its `server.json`.")
    meta: JsonObject = Field(
        alias="_meta", description="What the registry says of it: status, times, `isLatest`."
    )


class ListMetadata(BaseModel):
    """Position of a page."""

    count: int
    nextCursor: str | None = Field(default=None, description="Of the next page, if there is one.")  # noqa: N815 - the wire's name


class RegistryServerList(BaseModel):
    """Versions of servers."""

    servers: list[RegistryServer]
    metadata: ListMetadata
