"""Documents of `toolsets`, which are ours alone: named subsets of the tools of any servers."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict, Field
from pymongo import ASCENDING, IndexModel

NAME_INDEX = "tenant_id_1_name_1_author_1"
FORMER_NAME_INDEX = "tenant_id_1_name_1"

NonEmptyText = Annotated[str, Field(min_length=1)]


class ToolsetEntryDocument(BaseModel):
    """The tools that one entry of a toolset takes: by *tool*, *tag* or *metadata*.

    Attributes:
        server_id: The server that offers them; absent for all.
        tool: Name of a tool on that server, in which `*` matches any text.
        tag: A tag of the tools.
        metadata: Flags that they must have, with their values.
        name: What clients call the tool instead.
        arguments: JSON text of the arguments that are preset, and hidden from clients.
        version: The tool is served only while its served version has this number.
    """

    server_id: PydanticObjectId | None = None
    tool: NonEmptyText | None = None
    tag: NonEmptyText | None = None
    metadata: dict[str, Any] | None = None
    name: NonEmptyText | None = None
    title: str | None = None
    description: str | None = None
    arguments: str | None = None
    version: Annotated[int, Field(ge=1)] | None = None


class ToolsetDocument(Document):
    """One toolset.

    Attributes:
        name: Unique among those of its author in its tenant.
        author: The user who created it.
        scope: `private_user`, `shared_user` or `shared_app`, as of servers.
        default_for: The callers whose `/mcp` it narrows, as texts `user:<id>`, `role:<role>`,
            `token:<jti>` and `client:<name>`.
        revision: Number of its changes.
        created_by: The user who created it: `{user_id, username}`.
        updated_by: The user who changed it last.
    """

    model_config = ConfigDict(extra="allow")

    tenant_id: str | None = None
    name: NonEmptyText
    title: str | None = None
    description: str | None = None
    author: PydanticObjectId
    scope: NonEmptyText
    entries: list[ToolsetEntryDocument]
    default_for: list[str] | None = None
    revision: Annotated[int, Field(ge=1)]
    created_at: datetime
    created_by: dict[str, str] | None = None
    updated_at: datetime
    updated_by: dict[str, str] | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "toolsets"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("tenant_id", ASCENDING), ("name", ASCENDING), ("author", ASCENDING)],
                name=NAME_INDEX,
                unique=True,
            ),
        ]
