"""What a policy says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from registry.auth.identity import Role, UserContext


class Effect(StrEnum):
    """What a policy does for the callers whom it names."""

    ALLOW = "allow"
    DENY = "deny"


class SourceType(StrEnum):
    """Kinds of tools."""

    MCP = "mcp"
    OPENAPI = "openapi"


class PolicyDecision(StrEnum):
    """What policies say of one caller and one tool."""

    OPEN = "no policy allows it to some only"
    ALLOWED = "a policy allows it to the caller"
    ADMINISTRATOR = "administrators may use what policies allow to some only"
    DENIED = "a policy denies it to the caller"
    NOT_NAMED = "policies allow it to some, and the caller is not among them"

    @property
    def is_allowed(self) -> bool:
        """Whether the caller may use the tool."""
        return self is not PolicyDecision.DENIED and self is not PolicyDecision.NOT_NAMED


@dataclass(frozen=True, slots=True)
class Subjects:
    """The callers whom a policy names: those of whom any of this is true.

    Attributes:
        users: ObjectIds, 24 hexadecimal characters each.
        groups: Likewise.
        scopes: One of them in the caller's token is enough.
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
        """Return the callers whom either names."""
        return Subjects(
            self.users | other.users,
            self.groups | other.groups,
            self.roles | other.roles,
            self.scopes | other.scopes,
            self.everyone or other.everyone,
        )


NOBODY = Subjects()
EVERYONE = Subjects(everyone=True)


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """The tools that a policy is about: those of which all of this is true.

    Attributes:
        source_type: None for any, of a policy that cannot be read.
        owner_id: The server that offers them; None for all servers.
        tools: Names, in which `*` stands for any text; none for all.
        metadata: Flags that they have, and their values.
    """

    source_type: SourceType | None = SourceType.MCP
    owner_id: str | None = None
    tools: tuple[str, ...] = ()
    metadata: Mapping[str, bool | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy, as decisions are made on it.

    Attributes:
        problem: Why the stored one cannot be read. What it is about is refused to everyone then.
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
    """Who changed something."""

    user_id: str
    username: str


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """One policy, as it is stored.

    Attributes:
        revision: Counts its changes.
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
        """Return a text that differs when the policy does."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """What policies ask of a tool.

    Attributes:
        facets: What is known of its effects, as texts `flag:value`.
    """

    name: str
    facets: tuple[str, ...] = ()


class SubjectType(StrEnum):
    """By what a policy names callers."""

    USER = "user"
    GROUP = "group"
    ROLE = "role"
    SCOPE = "scope"
    EVERYONE = "everyone"


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """What a list of policies is narrowed to.

    Attributes:
        owner_id: Policies about this server alone.
        applies_to: Policies about this server, and those about all.
        subject: Policies that name it: of which kind, and which one; none for everyone.
        tool: Policies that are about a tool of that name, whatever its metadata.
        text: Looked for in names and descriptions.
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
    """What a person says of a policy.

    Attributes:
        given: Names of the members that were given; the others stay as they are.
    """

    given: frozenset[str]
    name: str = ""
    description: str | None = None
    effect: Effect = Effect.ALLOW
    is_enabled: bool = True
    target: PolicyTarget = field(default_factory=PolicyTarget)
    subjects: Subjects = NOBODY
