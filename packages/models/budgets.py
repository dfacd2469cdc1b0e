"""`budgets`: what callers may spend in a calendar month. The collection is this program's own."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from beanie import Document, PydanticObjectId
from pydantic import BaseModel, ConfigDict, Field
from pymongo import ASCENDING, IndexModel

MAX_BUDGET_NAME = 128


class BudgetNotice(BaseModel):
    """What was reported of a budget last.

    Attributes:
        month: The beginning of the month that it was about.
        percent: 80 or 100.
    """

    month: datetime
    percent: Annotated[int, Field(ge=1)]


class BudgetDocument(Document):
    """One budget: of the callers that it names, together, for tools with one of its tags.

    Attributes:
        name: Unique among the budgets of a tenant.
        tenant_id: Of its callers; absent for callers of all tenants.
        amount: Millionths of the currency unit for each month, UTC.
        billing_tags: Only calls of tools with one of them; empty for all.
        revision: Number of its changes.
        created_by: The user who created it: `{user_id, username}`; so is *updated_by*.
    """

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=MAX_BUDGET_NAME)]
    tenant_id: str | None = None
    amount: Annotated[int, Field(ge=0)]
    users: list[PydanticObjectId] = Field(default_factory=list)
    roles: list[Literal["admin", "user"]] = Field(default_factory=list)
    everyone: bool = False
    billing_tags: list[str] = Field(default_factory=list)
    notice: BudgetNotice | None = None
    revision: Annotated[int, Field(ge=1)]
    created_at: datetime
    created_by: dict[str, str] | None = None
    updated_at: datetime
    updated_by: dict[str, str] | None = None

    class Settings:
        """The collection, and its indexes."""

        name = "budgets"
        keep_nulls = False
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("tenant_id", ASCENDING), ("name", ASCENDING)], unique=True)
        ]
