"""Document `mcp_features`: prompts, resources and resource templates of MCP servers.

The collection is this program's own. Definitions are JSON text, as for tools.
"""

from datetime import datetime
from typing import Annotated, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, IndexModel

from packages.models.states import FeatureKind


class ServerFeature(Document):
    """One prompt, resource or resource template, as its upstream listed it.

    Attributes:
        owner_id: The server (`mcpservers`) that offers it.
        key: The prompt's name, the resource's uri or the template's uriTemplate.
        definition: JSON text of the whole object.
        position: Its place in the upstream's list.
        last_synced_at: When it was last written; an unchanged upstream writes nothing.
    """

    model_config = ConfigDict(extra="allow")

    owner_id: PydanticObjectId
    kind: FeatureKind
    key: Annotated[str, Field(min_length=1)]
    definition: str
    position: int
    last_synced_at: datetime

    class Settings:
        """The collection, and its indexes."""

        name = "mcp_features"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel(
                [("owner_id", ASCENDING), ("kind", ASCENDING), ("key", ASCENDING)], unique=True
            ),
        ]
