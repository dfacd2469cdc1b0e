"""Identity of a caller: role, scopes, tenant. Pure: no I/O, no clock."""

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Role of a user. jarvis-api stores the same names in capitals."""

    ADMIN = "admin"
    USER = "user"

    @classmethod
    def parse(cls, stored: str | None) -> "Role":
        """Read a stored role without regard to case; anything unknown is a plain user."""
        return cls.ADMIN if stored is not None and stored.lower() == cls.ADMIN else cls.USER

    def limited_to(self, other: "Role") -> "Role":
        """Return the lower of the two."""
        return self if other is Role.ADMIN else other


class Scope(StrEnum):
    """What a token allows. Space-separated in the `scope` claim (RFC 6749, 3.3)."""

    READ_SERVERS = "read:servers"
    WRITE_SERVERS = "write:servers"
    READ_TOOLS = "read:tools"
    WRITE_TOOLS = "write:tools"
    READ_TOKENS = "read:tokens"
    WRITE_TOKENS = "write:tokens"
    READ_CATALOG = "read:catalog"
    WRITE_CATALOG = "write:catalog"
    READ_AUDIT = "read:audit"
    WRITE_ACCESS = "write:access"
    INVOKE_TOOLS = "invoke:tools"
    CONFIRM_TOOLS = "confirm:tools"
    APPROVE_TOOLS = "approve:tools"


ALL_SCOPES = frozenset(Scope)
USER_SCOPES = frozenset(
    {
        Scope.READ_SERVERS,
        Scope.WRITE_SERVERS,
        Scope.READ_TOOLS,
        Scope.WRITE_TOOLS,
        Scope.READ_TOKENS,
        Scope.WRITE_TOKENS,
        Scope.READ_CATALOG,
        Scope.INVOKE_TOOLS,
        Scope.WRITE_ACCESS,
    }
)
"""Scopes of a plain user whose token names none (jarvis-api's tokens)."""

GRANTED_SCOPES = frozenset({Scope.CONFIRM_TOOLS, Scope.APPROVE_TOOLS})
"""Scopes that plain users do not have by default, and that their tokens may be given."""

SCOPE_NAME = r"^[\x21\x23-\x5B\x5D-\x7E]{1,128}$"
"""Pattern of a scope's name (RFC 6749, 3.3), with our own maximum length."""


TOOLS = frozenset({"all", "search"})
"""What tokens may say of the tools that clients find at the gateway."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """Filter by tenant: the data of one tenant, or of all.

    Attributes:
        one: The tenant; None for what is of none.
        are_all: Whether *one* is of no meaning.
    """

    one: str | None = None
    are_all: bool = False


ALL_TENANTS = Tenants(are_all=True)


@dataclass(frozen=True, slots=True)
class UserContext:
    """A verified caller.

    Attributes:
        user_id: ObjectId of the user as 24 hexadecimal characters.
        scopes: What the token allows, of administrators too.
        groups: ObjectIds (24 hexadecimal characters) of the groups the user belongs to.
        token_id: The token's `jti`, when it has one.
        role_name: The role as stored in `users`, where it was looked up; ACL entries may name it.
        session_id: The family of tokens that it belongs to, when it does.
        ancestors: The tokens and families that it was generated with, the oldest first.
        custom_scopes: What the token names besides: of no meaning but to access policies.
        is_service_account: Whether the caller is in no `users`, and the token says so.
        tenant_id: The tenant that the caller is of; None is a tenant of its own, of all that is
            stored without one. Administrators without one see all, see `sees_all_tenants`.
        is_of_all_tenants: Whether the caller is the registry itself, or its operator.
        toolset: The toolset that the token is limited to at the gateway, see `toolset_claim`; None
            for none.
        tools: What the token says that clients find at the gateway: `all` tools, or tool `search`;
            None if it does not say.
        principal: Names the caller across requests; sealed ids are bound to it.
    """

    user_id: str
    username: str
    role: Role
    scopes: frozenset[Scope]
    groups: frozenset[str] = field(default_factory=frozenset)
    token_id: str | None = None
    role_name: str | None = None
    session_id: str | None = None
    ancestors: tuple[str, ...] = ()
    custom_scopes: frozenset[str] = frozenset()
    is_service_account: bool = False
    tenant_id: str | None = None
    is_of_all_tenants: bool = False
    toolset: str | None = None
    tools: str | None = None

    @property
    def held_scopes(self) -> frozenset[str]:
        """Return all scopes that the token names."""
        return self.scopes | self.custom_scopes

    @property
    def role_principal(self) -> str:
        """Return the caller's role as ACL entries name it."""
        return self.role_name or self.role.value.upper()

    @property
    def principal(self) -> str:
        """Return the caller's name in seals and records."""
        return f"user:{self.user_id}"

    @property
    def is_admin(self) -> bool:
        """Whether the caller administers the registry."""
        return self.role is Role.ADMIN

    @property
    def sees_all_tenants(self) -> bool:
        """Whether the caller sees the data of all tenants.

        These are the registry itself, its operator, and administrators without a tenant, which
        only the operator creates. Source: docs/decisions/0048-what-is-of-a-tenant.md.
        """
        return self.is_of_all_tenants or (self.is_admin and self.tenant_id is None)

    @property
    def tenants(self) -> Tenants:
        """Return the tenants whose data the caller sees."""
        return ALL_TENANTS if self.sees_all_tenants else Tenants(self.tenant_id)

    def sees_tenant(self, tenant_id: str | None) -> bool:
        """Whether the caller sees the data of *tenant_id*; None is data without a tenant."""
        return self.tenant_id == tenant_id or self.sees_all_tenants

    def lacks(self, *needed: Scope) -> tuple[Scope, ...]:
        """Return those of *needed* that the token lacks."""
        if self.scopes.issuperset(needed):
            return ()
        return tuple(scope for scope in needed if scope not in self.scopes)


def toolset_claim(name: str, toolset_id: str) -> str:
    """Return what a token says of the toolset that it is limited to.

    The id decides: a name means another toolset once the first is renamed or removed, which would
    widen what the token may call. Source: docs/decisions/0062-toolsets.md.
    """
    return f"{name}#{toolset_id}"


def claimed_toolset(claim: str) -> tuple[str, str | None]:
    """Return the name and the id in a claim; tokens of earlier releases have a name alone."""
    name, separator, toolset_id = claim.partition("#")
    return name, toolset_id if separator else None


def tenant_of(stored: object) -> str | None:
    """Read a stored `tenantId`.

    As in jarvis-api, a missing and an empty value are the same. A value that is not text is a
    tenant of its own, which never equals another.
    """
    if stored is None or stored == "":
        return None
    return stored if isinstance(stored, str) else f"\x00{type(stored).__name__}:{stored}"


def default_scopes(role: Role) -> frozenset[Scope]:
    """Return the scopes of a user of *role* whose token names none."""
    return ALL_SCOPES if role is Role.ADMIN else USER_SCOPES


def grantable_scopes(role: Role) -> frozenset[Scope]:
    """Return the scopes that a token of *role* may be given."""
    return default_scopes(role) | GRANTED_SCOPES


OPERATOR = UserContext("0" * 24, "operator", Role.ADMIN, ALL_SCOPES, is_of_all_tenants=True)
"""The acting user of commands on the server, and of the registry's own background work."""

SYNCHRONISER = UserContext("0" * 24, "sync", Role.ADMIN, ALL_SCOPES, is_of_all_tenants=True)
"""The acting user of readings that no person requested."""
