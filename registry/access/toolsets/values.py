"""Values about toolsets. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from registry.access.policies.values import PolicyEditor
from registry.access.policy import ServerFacts, ServerScope
from registry.auth.identity import UserContext

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class ToolsetEntry:
    """What one entry takes, and how it is served.

    Attributes:
        server_id: The server; None for all.
        tool: Name on the server, in which `*` matches any text.
        tag: A tag that the tools must have.
        metadata: Flags with the values that they must have.
        name: What clients call the tool instead; of an exact entry alone.
        arguments: JSON text of the preset arguments; empty for none.
        version: The one version that is served; None for any.
    """

    server_id: str | None = None
    tool: str | None = None
    tag: str | None = None
    metadata: tuple[tuple[str, bool | str], ...] = ()
    name: str | None = None
    title: str | None = None
    description: str | None = None
    arguments: str = ""
    version: int | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it names one tool."""
        return self.tool is not None and WILDCARD not in self.tool


@dataclass(frozen=True, slots=True)
class DefaultFor:
    """The callers whose `/mcp` a toolset narrows.

    Attributes:
        users: ObjectIds, 24 hexadecimal characters each.
        roles: `admin` and `user`.
        tokens: The `jti` of tokens.
        clients: Names that clients give themselves (`clientInfo.name`).
    """

    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Return them as texts `kind:name`."""
        return (
            *(f"token:{name}" for name in self.tokens),
            *(f"user:{name}" for name in self.users),
            *(f"role:{name}" for name in self.roles),
            *(f"client:{name}" for name in self.clients),
        )

    @classmethod
    def of(cls, keys: tuple[str, ...]) -> "DefaultFor":
        """Return the callers that *keys* name; unknown kinds are left out."""
        found: dict[str, list[str]] = {"token": [], "user": [], "role": [], "client": []}
        for key in keys:
            kind, _, name = key.partition(":")
            if kind in found and name:
                found[kind].append(name)
        return cls(
            users=tuple(found["user"]),
            roles=tuple(found["role"]),
            tokens=tuple(found["token"]),
            clients=tuple(found["client"]),
        )


NO_CALLERS = DefaultFor()


def default_keys(user: UserContext) -> tuple[str, ...]:
    """Return what names a caller in `DefaultFor.keys`, the most specific first.

    The name of the client is not among them: a client gives it to itself, so it counts last.
    """
    own = (f"user:{user.user_id}", f"role:{user.role.value}")
    return own if user.token_id is None else (f"token:{user.token_id}", *own)


@dataclass(frozen=True, slots=True)
class Toolset:
    """One toolset, as it is served.

    Attributes:
        author: ObjectId of the user who made it.
        revision: Number of its changes.
    """

    id: str
    name: str
    tenant_id: str | None
    author: str
    scope: ServerScope
    entries: tuple[ToolsetEntry, ...]
    title: str | None = None
    description: str | None = None
    default_for: DefaultFor = NO_CALLERS
    revision: int = 1


@dataclass(frozen=True, slots=True)
class ToolsetRecord:
    """One toolset, as stored."""

    toolset: Toolset
    created_at: datetime | None
    created_by: PolicyEditor | None
    updated_at: datetime | None
    updated_by: PolicyEditor | None

    @property
    def etag(self) -> str:
        """Return a text that differs if the toolset does."""
        return str(self.toolset.revision)


@dataclass(frozen=True, slots=True)
class ToolsetSeen:
    """A toolset, and what a caller may do with it."""

    record: ToolsetRecord
    facts: ServerFacts
    bits: int


@dataclass(frozen=True, slots=True)
class ToolsetChange:
    """Changes to a toolset by a person.

    Attributes:
        members: Names of the members to change; the others stay unchanged.
        servers: For each entry, the server as it was named: an id, a name or a path.
    """

    members: frozenset[str]
    name: str = ""
    title: str | None = None
    description: str | None = None
    entries: tuple[ToolsetEntry, ...] = ()
    servers: tuple[str | None, ...] = ()
    default_for: DefaultFor = NO_CALLERS


@dataclass(frozen=True, slots=True)
class ResolvedTool:
    """A tool that a toolset serves to a caller now.

    Attributes:
        name: What clients call it.
        tool: Its name on the server.
        entry: Number of the entry that takes it, from 0.
    """

    name: str
    server_id: str
    server_name: str
    tool: str
    entry: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a toolset serves to a caller now.

    Attributes:
        tools: In the order of their names.
        problems: Why an entry, or a tool of it, is withheld, by the entry's number.
    """

    tools: tuple[ResolvedTool, ...] = ()
    problems: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
