"""Wire schemas of the approvals API: snake_case, as requests are stored."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from packages.models.states import ApprovalState
from registry.approvals.values import ApprovalFilter
from registry.core.text import ObjectIdText

MAX_COMMENT_CHARACTERS = 1_000


class ApprovalQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    state: ApprovalState | None = None
    server_id: ObjectIdText | None = None
    tool: Annotated[
        str | None, StringConstraints(pattern=r"^[^\x00]*$", min_length=1, max_length=256)
    ] = Field(default=None, description="The tool's own name on its server.")
    requester: ObjectIdText | None = Field(
        default=None, description="Id of the user who made the call."
    )
    cursor: Annotated[str | None, StringConstraints(max_length=200)] = Field(
        default=None, description="`next_cursor` of the page before."
    )
    limit: int = Field(default=50, ge=1, le=200)

    def narrowed(self) -> ApprovalFilter:
        """Return the filter; the server is asked for separately."""
        return ApprovalFilter(state=self.state, requester_id=self.requester, tool=self.tool)


class ApprovalDecision(BaseModel):
    """What an approver says."""

    model_config = ConfigDict(extra="forbid")

    comment: Annotated[
        str | None,
        StringConstraints(
            pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$", max_length=MAX_COMMENT_CHARACTERS
        ),
    ] = Field(default=None, description="Shown to the requester, and recorded.")


class ApprovalPerson(BaseModel):
    """A user."""

    user_id: str
    username: str


class DecisionAnswer(ApprovalPerson):
    """What one person decided."""

    verdict: str = Field(description="`approve` or `deny`.")
    comment: str | None
    at: str


class ApprovalAnswer(BaseModel):
    """A request for approval of one call."""

    id: str
    state: str = Field(
        description="`pending`, `approved`, `executing`, `executed`, `unknown`, `denied`, "
        "`expired`, `cancelled` or `void`."
    )
    reason: str | None = Field(description="Why it ended, or could not be executed.")
    server_id: str
    server_name: str
    tool: str
    called_as: str = Field(description="The name that the caller used.")
    path: str = Field(description="The gateway's path that the caller used.")
    requester: ApprovalPerson
    needed: int = Field(description="How many people must approve.")
    decisions: list[DecisionAnswer]
    arguments_digest: str = Field(description="SHA-256 of the canonical JSON of the arguments.")
    definition_hash: str = Field(description="SHA-256 of the definition that was offered.")
    created_at: str
    updated_at: str
    expires_at: str
    started_at: str | None
    ended_at: str | None
    fetched_at: str | None = Field(description="When the requester got the result.")
    is_error: bool
    etag: str


class ApprovalDetailAnswer(ApprovalAnswer):
    """A request with what people decide by."""

    arguments: dict[str, Any] | None = Field(
        description="What will be sent, secrets hidden (`writeOnly`, `format: password`). Null if "
        "the definition has changed since, or they cannot be read."
    )
    definition: dict[str, Any] | None = Field(description="The tool as it is offered now.")
    definition_is_current: bool = Field(
        description="Whether that is the definition which the request is bound to. If not, the "
        "request is void when it is executed."
    )
    tool_id: str | None
    tool_version: int | None
    tool_history: str | None = Field(description="Path of the tool's history.")


class ApprovalList(BaseModel):
    """Requests, newest first."""

    approvals: list[ApprovalAnswer]
    next_cursor: str | None = Field(description="Where older requests begin; null at the end.")
