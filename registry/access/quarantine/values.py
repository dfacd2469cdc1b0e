"""Values about quarantine. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from packages.models.states import QuarantineKind
from registry.access.policies.values import PolicyEditor


@dataclass(frozen=True, slots=True)
class Quarantine:
    """One subject in quarantine, or that was.

    Attributes:
        subject: Id of the server, user or token, or name of the application; a tool's server.
        tool: The tool's own name on its server.
        name: What people call it.
    """

    id: str
    kind: QuarantineKind
    subject: str
    name: str
    reason: str
    created_at: datetime
    created_by: PolicyEditor | None
    tool: str | None = None
    ends_calls: bool = False
    tenant_id: str | None = None
    expires_at: datetime | None = None
    lifted_at: datetime | None = None
    lifted_by: PolicyEditor | None = None

    def is_active(self, now: datetime) -> bool:
        """Whether it is in force."""
        if self.lifted_at is not None:
            return False
        return self.expires_at is None or self.expires_at > now


@dataclass(frozen=True, slots=True)
class NewQuarantine:
    """What somebody wants to put in quarantine.

    Attributes:
        subject: Id of the server, user or token, or name of the application.
        tool: For a tool, its own name on its server.
        hours: How far back its calls are looked for.
    """

    kind: QuarantineKind
    subject: str
    reason: str
    tool: str | None = None
    expires_at: datetime | None = None
    ends_calls: bool = False
    hours: int = 24


@dataclass(frozen=True, slots=True)
class ReachedGroup:
    """One user and tool among the calls of a subject.

    Attributes:
        calls: How many there were.
    """

    user_id: str
    username: str
    server: str | None
    method: str
    tool: str | None
    calls: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """What a subject reached, or who reached it, in the last hours.

    Attributes:
        is_known: Whether records say it: of applications there are none.
        is_complete: Whether all records were looked at.
    """

    hours: int
    calls: int = 0
    groups: Sequence[ReachedGroup] = field(default_factory=tuple)
    is_known: bool = True
    is_complete: bool = True
