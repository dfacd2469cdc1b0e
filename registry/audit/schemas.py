"""Wire schemas of the audit API: snake_case, as the records are stored."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from packages.models.states import AuditOutcome
from registry.audit.values import AuditAction, AuditFilter, EntityType
from registry.core.cursor import in_utc
from registry.core.text import ObjectIdText


class AuditQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    action: AuditAction | None = None
    entity_type: EntityType | None = None
    entity_id: Annotated[str | None, StringConstraints(pattern=r"^[^\x00]*$", max_length=128)] = (
        None
    )
    user_id: ObjectIdText | None = None
    outcome: AuditOutcome | None = None
    since: AwareDatetime | None = Field(default=None, description="From then on.")
    until: AwareDatetime | None = Field(default=None, description="Before then.")
    cursor: Annotated[str | None, StringConstraints(max_length=200)] = Field(
        default=None, description="`next_cursor` of the page before."
    )
    limit: int = Field(default=50, ge=1, le=200)

    def record_filter(self) -> AuditFilter:
        """Return the filter.

        Raises:
            MomentOutOfRangeError: A time lies outside of the calendar in UTC.
        """
        return AuditFilter(
            self.action,
            self.entity_type,
            self.entity_id,
            self.user_id,
            self.outcome,
            in_utc("since", self.since),
            in_utc("until", self.until),
        )


class AuditRecordAnswer(BaseModel):
    """One record."""

    id: str
    timestamp: str
    action: str
    entity_type: str
    entity_id: str | None
    outcome: str
    reason: str | None
    user_id: str
    username: str
    role: str
    token_id: str | None
    request_id: str | None
    source_address: str | None
    changes: dict[str, Any] = Field(description="`before`, `after`, `secrets`; masked.")


class AuditAnswer(BaseModel):
    """Records, newest first."""

    records: list[AuditRecordAnswer]
    next_cursor: str | None = Field(description="Where older records begin; null at the end.")
