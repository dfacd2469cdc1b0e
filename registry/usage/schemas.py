"""Wire schemas of the usage API: snake_case, as the records are stored."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from registry.core.cursor import in_utc
from registry.core.text import ObjectIdText
from registry.usage.values import UsageFilter

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=256)]


class UsageQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    server_id: ObjectIdText | None = None
    user_id: ObjectIdText | None = None
    tool: Name | None = Field(default=None, description="Tool, prompt or address of a resource.")
    method: Name | None = None
    outcome: Name | None = None
    trace_id: Annotated[str | None, StringConstraints(pattern=r"^[0-9a-f]{32}$")] = None
    since: AwareDatetime | None = Field(default=None, description="From then on.")
    until: AwareDatetime | None = Field(default=None, description="Before then.")
    cursor: Annotated[str | None, StringConstraints(max_length=200)] = Field(
        default=None, description="`next_cursor` of the page before."
    )
    limit: int = Field(default=50, ge=1, le=200)

    def record_filter(self) -> UsageFilter:
        """Return the filter.

        Raises:
            MomentOutOfRangeError: A time lies outside of the calendar in UTC.
        """
        return UsageFilter(
            server_id=self.server_id,
            user_id=self.user_id,
            tool=self.tool,
            method=self.method,
            outcome=self.outcome,
            trace_id=self.trace_id,
            since=in_utc("since", self.since),
            until=in_utc("until", self.until),
        )


class UsageRecordAnswer(BaseModel):
    """One call."""

    id: str
    started_at: str
    user_id: str
    username: str
    token_id: str | None
    server_id: str | None
    server: str | None
    method: str
    tool: str | None
    era: str
    outcome: str
    error_code: int | None
    duration_ms: float
    admission_ms: float | None
    upstream_ms: float | None
    relay_ms: float | None
    request_bytes: int
    response_bytes: int
    trace_id: str | None
    worker: str
    cost_tier: str | None
    billing_tags: list[str]
    cost: float = Field(description="In the currency unit of the prices.")


class UsageAnswer(BaseModel):
    """Records, newest first."""

    records: list[UsageRecordAnswer]
    next_cursor: str | None = Field(description="Where older records begin; null at the end.")
