"""Values about policies. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from packages.models.states import Effect, SourceType
from registry.auth.identity import Role, UserContext


class PolicyDecision(StrEnum):
    """The result of all policies for one caller and one tool."""

    OPEN = "no policy allows it to some only"
    ALLOWED = "a policy allows it to the caller"
    ADMINISTRATOR = "administrators may use what policies allow to some only"
    DENIED = "a policy denies it to the caller"
    NOT_NAMED = "policies allow it to some, and the caller is not among them"
    CLOSED = "the server refuses its tools by default, and no policy allows it"

    @property
    def is_allowed(self) -> bool:
        """Whether the caller may use the tool."""
        return self in {
            PolicyDecision.OPEN,
            PolicyDecision.ALLOWED,
            PolicyDecision.ADMINISTRATOR,
        }


@dataclass(frozen=True, slots=True)
class Subjects:
    """The callers that a policy names: those who match any of these.

    Attributes:
        users: ObjectIds, 24 hexadecimal characters each.
        groups: ObjectIds, in the same form.
        scopes: One of them in the caller's token is sufficient.
    """

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[str] = frozenset()
    everyone: bool = False

    def names(self, user: UserContext) -> bool:
        """Whether *user* is one of them."""
        return (
            self.everyone
            or user.user_id in self.users
            or user.role in self.roles
            or not self.groups.isdisjoint(user.groups)
            or not self.scopes.isdisjoint(user.scopes)
            or not self.scopes.isdisjoint(user.custom_scopes)
        )

    def merged(self, other: "Subjects") -> "Subjects":
        """Return the callers that either names."""
        return Subjects(
            self.users | other.users,
            self.groups | other.groups,
            self.roles | other.roles,
            self.scopes | other.scopes,
            self.everyone or other.everyone,
        )


NO_SUBJECTS = Subjects()
EVERYONE = Subjects(everyone=True)


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """The tools that a policy applies to: those that match all of these.

    Attributes:
        source_type: Of tools of all servers: MCP servers' or REST APIs' alone; None for both.
            With *owner_id* it is that one's.
        owner_id: The server or API; None for all.
        tools: Names, in which `*` matches any text; empty for all.
        metadata: Flags with their values.
    """

    source_type: SourceType | None = None
    owner_id: str | None = None
    tools: tuple[str, ...] = ()
    metadata: Mapping[str, bool | str] = field(default_factory=dict)

    def may_concern(self, source_type: SourceType | None) -> bool:
        """Whether it may be about tools of a kind of servers; None if that is unknown."""
        said = None if self.owner_id is not None else self.source_type
        return said is None or source_type is None or said is source_type


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy, as decisions use it.

    Attributes:
        problem: Why the stored one is unreadable. It then refuses everything that it applies to.
    """

    id: str
    name: str
    effect: Effect
    target: PolicyTarget
    subjects: Subjects
    is_enabled: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyEditor:
    """A user who changed something."""

    user_id: str
    username: str


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """One policy, as stored.

    Attributes:
        revision: Number of its changes.
    """

    policy: Policy
    description: str | None
    revision: int
    created_at: datetime | None
    created_by: PolicyEditor | None
    updated_at: datetime | None
    updated_by: PolicyEditor | None

    @property
    def etag(self) -> str:
        """Return a text that differs if the policy does."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """The facts about a tool that policies use.

    Attributes:
        facets: Its known effects, as texts `flag:value`.
    """

    name: str
    facets: tuple[str, ...] = ()


class SubjectType(StrEnum):
    """The kinds of subjects."""

    USER = "user"
    GROUP = "group"
    ROLE = "role"
    SCOPE = "scope"
    EVERYONE = "everyone"


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """Filter of a list of policies.

    Attributes:
        owner_id: Only policies for this server.
        applies_to: Policies for this server, and those for all.
        subject: Policies that name it: its kind, and its id; None for everyone.
        tool: Policies that apply to a tool of that name, whatever its metadata.
        text: Searched in names and descriptions.
    """

    owner_id: str | None = None
    tool: str | None = None
    effect: Effect | None = None
    is_enabled: bool | None = None
    text: str | None = None
    applies_to: str | None = None
    subject: tuple[SubjectType, str] | None = None


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """Changes to a policy by a person.

    Attributes:
        members: Names of the members to change; the others stay unchanged.
    """

    members: frozenset[str]
    name: str = ""
    description: str | None = None
    effect: Effect = Effect.ALLOW
    is_enabled: bool = True
    target: PolicyTarget = field(default_factory=PolicyTarget)
    subjects: Subjects = NO_SUBJECTS


@dataclass(frozen=True, slots=True)
class NarrowedPath:
    """A path, with what may narrow it to toolsets besides its caller.

    Attributes:
        toolset: Name of the toolset of the path.
        header: Name of the one in the header `Mcp-Toolset`.
        client: The name of the client.
        server_id: The one server of the path; None for all.
    """

    toolset: str | None = None
    header: str | None = None
    client: str | None = None
    server_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of the decision.

    Attributes:
        step: `quarantine`, `server`, `tool`, `access`, `scope`, `policy`, `toolset`, `limit`,
            `budget`, `confirmation` or `approval`.
        retry_after_ms: Where it refuses for a while: after how long it refuses no longer.
    """

    step: str
    passed: bool
    message: str
    retry_after_ms: int | None = None
