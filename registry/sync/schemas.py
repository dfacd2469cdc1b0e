"""Wire schemas of the sync API: snake_case, as the records are stored."""

from pydantic import BaseModel, ConfigDict, Field

from packages.models.states import JobState, RunOutcome, Trigger
from registry.core.text import ObjectIdText
from registry.sync.values import JobFilter, Phase
from registry.web.pages import PageNumber, Pagination, PerPage


class JobQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    owner_id: ObjectIdText | None = None
    state: JobState | None = None
    trigger: Trigger | None = None
    page: PageNumber = 1
    per_page: PerPage = 20

    def job_filter(self) -> JobFilter:
        """Return the filter."""
        owner = None if self.owner_id is None else frozenset({self.owner_id})
        return JobFilter(owner, self.state, self.trigger)


class Requester(BaseModel):
    """A person."""

    user_id: str
    username: str


class ProgressAnswer(BaseModel):
    """How far a running attempt is."""

    phase: Phase
    tools_read: int


class JobSummary(BaseModel):
    """A job."""

    id: str
    owner_id: str
    owner_name: str = Field(description="The server's name when the job began.")
    source_type: str
    trigger: Trigger
    requested_by: Requester | None = None
    state: JobState
    attempts: int
    next_attempt_at: str | None = Field(
        default=None, description="When a job that waits is taken, at the earliest."
    )
    progress: ProgressAnswer | None = None
    error: str | None = None
    counts: dict[str, int] = Field(description="Tools by what became of them in the last attempt.")
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    duration_ms: int | None = Field(default=None, description="Of the last attempt.")


class RunAnswer(BaseModel):
    """One attempt."""

    attempt: int
    worker: str | None = Field(
        default=None, description="Host and process; only for administrators."
    )
    outcome: RunOutcome
    error: str | None = None
    note: str | None = Field(default=None, description="Why nothing was read, if no failure.")
    counts: dict[str, int]
    upstream_ms: int | None = None
    started_at: str
    finished_at: str
    duration_ms: int


class JobDetail(JobSummary):
    """A job with its attempts, newest first."""

    runs: list[RunAnswer]


class JobList(BaseModel):
    """One page of jobs, newest first."""

    jobs: list[JobSummary]
    pagination: Pagination


class SyncAnswer(BaseModel):
    """A requested job."""

    job_id: str
    state: JobState
    deduplicated: bool = Field(
        description="Whether an open job of the server was returned instead of a new one."
    )
    job: JobSummary


class WebhookSecret(BaseModel):
    """What a sender needs. The secret is returned only this once."""

    url: str
    secret: str = Field(description="`whsec_` and Base64, as Standard Webhooks libraries take it.")


class DeliveryAnswer(BaseModel):
    """What came of a webhook call."""

    job_id: str
    duplicate: bool = Field(description="Whether this message came before; then nothing began.")
