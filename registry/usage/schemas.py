"""Wire schemas of the usage API: snake_case, as the records are stored."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic import model_validator as validator

from registry.core.cursor import in_utc
from registry.core.text import ObjectIdText
from registry.usage.values import GroupBy, UsageFilter

DAY_SECONDS = 86_400
_NAMES = "|".join(GroupBy)
GROUP_BY = rf"^({_NAMES})(,({_NAMES}))*$"

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=256)]


class UsageQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    server_id: ObjectIdText | None = None
    user_id: ObjectIdText | None = None
    tool: Name | None = Field(
        default=None,
        description="Tool, prompt or address of a resource: its own name, or its name on the "
        "combined server or in a toolset.",
    )
    method: Name | None = None
    outcome: Name | None = None
    tag: Name | None = Field(default=None, description="One of the tool's billing tags.")
    trace_id: Annotated[str | None, StringConstraints(pattern=r"^[0-9a-f]{32}$")] = None
    since: AwareDatetime | None = Field(default=None, description="From then on.")
    until: AwareDatetime | None = Field(default=None, description="Before then.")
    cursor: Annotated[str | None, StringConstraints(max_length=200)] = Field(
        default=None, description="`next_cursor` of the page before."
    )
    limit: int = Field(default=50, ge=1, le=200)
    group_by: Annotated[str | None, StringConstraints(pattern=GROUP_BY)] = Field(
        default=None,
        description="Daily totals instead of single calls: some of `caller`, `server`, `tool`, "
        "`tag`, `day`, separated by commas. `since` and `until` are then the beginnings of days "
        "in UTC.",
    )
    format: Literal["json", "csv", "ndjson"] = Field(
        default="json",
        description="`csv` and `ndjson` (JSON texts, one a line) are exports of everything, "
        "without `cursor` and `limit`.",
    )

    @validator(mode="after")
    def _fits(self) -> Self:
        if self.format != "json" and self.model_fields_set & {"cursor", "limit"}:
            raise ValueError("an export has no cursor and no limit")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since: must be before until")
        if self.group_by is None:
            return self
        if self.cursor is not None or self.trace_id is not None:
            raise ValueError("totals have no cursor and no trace_id")
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.timestamp() % DAY_SECONDS:
                raise ValueError(f"{name}: totals are of days, so this must be midnight in UTC")
        return self

    def groups(self) -> list[GroupBy]:
        """Return what totals are grouped by."""
        named = (self.group_by or "").split(",")
        return [GroupBy(one) for one in dict.fromkeys(named) if one]

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
            tag=self.tag,
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
    tool: str | None = Field(
        description="Its own name on the server, at whatever path it was called."
    )
    called_as: str | None = Field(description="Its name at the path of the call.")
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


class UsageSums(BaseModel):
    """Sums over calls.

    Percentiles are those of the time from arrival to end, wrong by at most 3.1 %.
    """

    calls: int
    sent: int = Field(description="Calls that were sent upstream; only these cost.")
    errors: int = Field(description="Calls with another outcome than `ok` or `awaiting_approval`.")
    outcomes: dict[str, int]
    request_bytes: int
    response_bytes: int
    cost: float = Field(description="In the currency unit of the prices.")
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class UsageGroupAnswer(UsageSums):
    """Sums of one group, with the members that it is grouped by."""

    day: str | None = None
    user_id: str | None = None
    username: str | None = None
    server_id: str | None = None
    server: str | None = None
    tool: str | None = Field(default=None, description="Null for prompts, resources, unknown.")
    billing_tags: list[str] | None = None


class UsageSummaryAnswer(BaseModel):
    """Daily totals in groups."""

    groups: list[UsageGroupAnswer]
    total: UsageSums = Field(description="Sums over all groups.")
    has_more: bool = Field(description="Whether there are more groups, which exports have.")
