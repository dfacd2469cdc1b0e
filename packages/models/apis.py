"""`raw_apis`: registered REST APIs, whose operations become tools.

The collection is this program's own. Its documents have the fields of `mcpservers`, so that what
is done with servers is done with APIs by the same code: they are not in that collection because
the other application, which reads it, would take them for servers that it can connect to.
"""

from typing import Annotated, Any, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import ConfigDict, Field
from pymongo import ASCENDING, DESCENDING, IndexModel

OWN_PATH_INDEX = "registry_own_path"
MAX_NAME_CHARACTERS = 64


class RawApi(Document):
    """One REST API, the owner of its tools.

    Attributes:
        config: As of servers. `type` is `openapi`, `url` the URL that paths of operations are
            appended to, `openapi` where the description is and which operations are selected.
        registry: As of servers. `api` holds what the last description said beside its operations.
        document: The description as it was uploaded or last fetched, compressed with zlib.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    server_name: Annotated[
        str, Field(alias="serverName", min_length=1, max_length=MAX_NAME_CHARACTERS)
    ]
    config: dict[str, Any]
    author: PydanticObjectId
    scope: Literal["shared_app", "shared_user", "private_user"]
    status: Literal["active", "inactive", "error"]
    path: str | None = None
    tags: list[str] | None = None
    tenant_id: Annotated[str | None, Field(alias="tenantId")] = None
    document: bytes | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "raw_apis"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("serverName", ASCENDING), ("tenantId", ASCENDING)], unique=True),
            IndexModel(
                [("registry.path", ASCENDING), ("tenantId", ASCENDING)],
                name=OWN_PATH_INDEX,
                unique=True,
                partialFilterExpression={"registry.path": {"$type": "string"}},
            ),
            IndexModel([("updatedAt", DESCENDING), ("_id", ASCENDING)]),
        ]
