"""Bodies and answers of the quarantine API: snake_case, as the records are stored."""

import re
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic import model_validator as validator

from packages.models.states import QuarantineKind
from registry.access.policies.schemas import PersonAnswer, ToolName
from registry.access.quarantine.values import NewQuarantine
from registry.core.cursor import in_utc
from registry.core.text import OBJECT_ID

MAX_HOURS = 720
Subject = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", min_length=1, max_length=256)
]
OF_IDS = frozenset({QuarantineKind.SERVER, QuarantineKind.TOOL, QuarantineKind.USER})


class QuarantineRequest(BaseModel):
    """What to put in quarantine."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    kind: QuarantineKind
    subject: Subject = Field(
        description="ObjectId of the server (of a tool, too) or user; `jti` of a token, or the "
        "family of one; the name that a caller application says in `clientInfo`."
    )
    tool: ToolName | None = Field(default=None, description="The tool's own name on its server.")
    reason: Annotated[
        str,
        StringConstraints(
            pattern=r"^[^\x00-\x1f\x7f]*$", strip_whitespace=True, min_length=1, max_length=512
        ),
    ]
    expires_at: AwareDatetime | None = Field(
        default=None, description="When it ends by itself; null for never."
    )
    ends_calls: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="Whether calls under way are ended, too. Streams always are."
    )
    hours: Annotated[int, Field(strict=True, ge=1, le=MAX_HOURS)] = Field(
        default=24, description="How far back `reached` looks."
    )

    @validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind is QuarantineKind.TOOL) != (self.tool is not None):
            raise ValueError("tool: goes with the kind tool, and only with it")
        if self.kind in OF_IDS and not _is_id(self.subject):
            raise ValueError("subject: must be 24 hexadecimal characters")
        return self

    def value(self) -> NewQuarantine:
        """Return the value.

        Raises:
            MomentOutOfRangeError: The expiry lies outside of the calendar in UTC.
        """
        subject = self.subject.lower() if self.kind in OF_IDS else self.subject
        return NewQuarantine(
            self.kind,
            subject,
            self.reason,
            self.tool,
            in_utc("expires_at", self.expires_at),
            self.ends_calls,
            self.hours,
        )


class QuarantineAnswer(BaseModel):
    """One quarantine."""

    id: str
    kind: QuarantineKind
    subject: str
    tool: str | None
    name: str = Field(description="What people call it.")
    reason: str
    ends_calls: bool
    is_active: bool
    created_at: str | None
    created_by: PersonAnswer | None
    expires_at: str | None
    lifted_at: str | None
    lifted_by: PersonAnswer | None


class LiftedAnswer(QuarantineAnswer):
    """A quarantine that was ended."""

    others: list[str] = Field(
        description="Ids of other quarantines of the same subject, which still hold."
    )


class ReachedAnswer(BaseModel):
    """Calls of one user of one target."""

    user_id: str
    username: str
    server: str | None
    method: str
    tool: str | None
    calls: int
    first_at: str | None
    last_at: str | None


class RadiusAnswer(BaseModel):
    """What was reached before."""

    hours: int
    is_known: bool = Field(description="False for applications: records do not name them.")
    is_complete: bool = Field(description="False if there are more records than were looked at.")
    calls: int
    groups: list[ReachedAnswer]


class AddedQuarantine(QuarantineAnswer):
    """A quarantine that was just made."""

    reached: RadiusAnswer


class QuarantineList(BaseModel):
    """Quarantines, the newest first."""

    quarantines: list[QuarantineAnswer]


def _is_id(text: str) -> bool:
    return re.fullmatch(OBJECT_ID, text) is not None
