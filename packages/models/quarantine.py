"""Documents of `quarantines`, which are ours alone: what is refused everywhere for now."""

from datetime import datetime
from typing import Annotated, ClassVar

from beanie import Document
from pydantic import Field
from pymongo import DESCENDING, IndexModel

from packages.models.states import QuarantineKind

NonEmptyText = Annotated[str, Field(min_length=1)]


class QuarantineDocument(Document):
    """One server, tool, user, token or caller application in quarantine.

    Attributes:
        subject: Id of the server, user or token, or name of the application; a tool's server.
        tool: The tool's own name on its server; absent for the other kinds.
        name: What people call it.
        ends_calls: Whether calls under way were ended.
        expires_at: When it ends by itself; absent for never.
        lifted_at: When somebody ended it; absent while nobody did.
    """

    kind: QuarantineKind
    subject: NonEmptyText
    tool: str | None = None
    name: str
    reason: NonEmptyText
    ends_calls: bool
    tenant_id: str | None = None
    created_at: datetime
    created_by: dict[str, str]
    updated_at: datetime
    expires_at: datetime | None = None
    lifted_at: datetime | None = None
    lifted_by: dict[str, str] | None = None

    class Settings:
        """Where it is stored."""

        name = "quarantines"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [IndexModel([("created_at", DESCENDING)])]
