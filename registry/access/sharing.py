"""Plan a change of access: the entries to write, and the scope that follows. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from typing_extensions import override

from registry.access.errors import LastOwnerError
from registry.access.policy import ALL_BITS, VIEW_BIT, Permission, PrincipalType, ServerScope


class AccessRole(StrEnum):
    """Named sets of permission bits; jarvis-api stores them with the resource's type as prefix."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"

    @property
    def bits(self) -> int:
        """Return the permission bits of the role."""
        return ROLE_BITS[self]


ROLE_BITS = {
    AccessRole.VIEWER: int(Permission.VIEW),
    AccessRole.EDITOR: int(Permission.VIEW | Permission.EDIT),
    AccessRole.OWNER: ALL_BITS,
}


@dataclass(frozen=True, slots=True)
class Principal:
    """The subject of an entry.

    Attributes:
        id: ObjectId as 24 hexadecimal characters, a role's name, or None for the public.
    """

    type: PrincipalType
    id: str | None = None

    @override
    def __str__(self) -> str:
        return self.type.value if self.id is None else f"{self.type.value}:{self.id}"


PUBLIC = Principal(PrincipalType.PUBLIC)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry about a resource.

    Attributes:
        expires_at: When it expires; None for never.
        granted_by: ObjectId of a user, if known.
    """

    principal: Principal
    bits: int
    expires_at: datetime | None = None
    granted_by: str | None = None
    granted_at: datetime | None = None

    @property
    def role(self) -> AccessRole | None:
        """Return the role with exactly these bits; the other application may store others."""
        return next((role for role in AccessRole if role.bits == self.bits), None)

    def is_alive(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or self.expires_at > now


@dataclass(frozen=True, slots=True)
class ShareRequest:
    """The requested change.

    Attributes:
        principals: All entries except the public's; None to keep those that are not named below.
        updated: Entries to add or to replace.
        removed: Principals whose entries are removed.
        public: Whether all users may see it; None to keep that.
    """

    principals: tuple[Entry, ...] | None = None
    updated: tuple[Entry, ...] = ()
    removed: tuple[Principal, ...] = ()
    public: bool | None = None


@dataclass(frozen=True, slots=True)
class SharePlan:
    """The writes of a change.

    Attributes:
        put: Entries to write.
        removed: Principals whose entries are removed.
        after: All unexpired entries after the change.
        scope: The scope that follows; None for a resource without one.
    """

    put: tuple[Entry, ...]
    removed: tuple[Principal, ...]
    after: tuple[Entry, ...]
    scope: ServerScope | None


def plan(
    entries: Iterable[Entry],
    request: ShareRequest,
    *,
    author: str,
    scope: ServerScope | None,
    now: datetime,
) -> SharePlan:
    """Return the writes of *request*.

    Raises:
        LastOwnerError: No user would own the resource without expiry.
    """
    before = merged(entry for entry in entries if entry.is_alive(now))
    after = dict(before)
    if not _shows_everybody(before.get(PUBLIC)):
        # Without use, or temporary, which no scope can express: removed with the next change.
        after.pop(PUBLIC, None)
    if request.principals is not None:
        after = {key: entry for key, entry in after.items() if key == PUBLIC}
        after.update({entry.principal: entry for entry in request.principals})
    after.update({entry.principal: entry for entry in request.updated})
    for principal in request.removed:
        after.pop(principal, None)
    if request.public is False:
        after.pop(PUBLIC, None)
    elif request.public:
        after[PUBLIC] = Entry(PUBLIC, AccessRole.VIEWER.bits)
    if not any(_owns_for_good(entry) for entry in after.values()):
        raise LastOwnerError
    return SharePlan(
        put=tuple(entry for key, entry in after.items() if _differs(before.get(key), entry)),
        removed=tuple(key for key in before if key not in after),
        after=tuple(after.values()),
        scope=None if scope is None else scope_of(after, author),
    )


def merged(entries: Iterable[Entry]) -> dict[Principal, Entry]:
    """Return one entry for each principal: the other application may have written several."""
    found: dict[Principal, Entry] = {}
    for entry in entries:
        other = found.get(entry.principal)
        found[entry.principal] = entry if other is None else _both(other, entry)
    return found


def _both(one: Entry, other: Entry) -> Entry:
    # A bit that expires in one of them is not permanent.
    ends = [entry.expires_at for entry in (one, other) if entry.expires_at is not None]
    return replace(other, bits=one.bits | other.bits, expires_at=min(ends, default=None))


def scope_of(entries: Mapping[Principal, Entry], author: str) -> ServerScope:
    """Return the scope that corresponds to *entries*."""
    if PUBLIC in entries:
        return ServerScope.SHARED_APP
    if entries.keys() == {Principal(PrincipalType.USER, author)}:
        return ServerScope.PRIVATE_USER
    return ServerScope.SHARED_USER


def fingerprint(entries: Iterable[Entry]) -> str:
    """Return a text that differs if the entries do."""
    lines = sorted(
        f"{entry.principal} {entry.bits} {entry.expires_at and entry.expires_at.isoformat()}"
        for entry in entries
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _shows_everybody(entry: Entry | None) -> bool:
    return entry is not None and bool(entry.bits & VIEW_BIT) and entry.expires_at is None


def _owns_for_good(entry: Entry) -> bool:
    # A group may be empty, or become so elsewhere.
    is_user = entry.principal.type is PrincipalType.USER
    return is_user and entry.bits == ALL_BITS and entry.expires_at is None


def _differs(before: Entry | None, after: Entry) -> bool:
    return before is None or (before.bits, before.expires_at) != (after.bits, after.expires_at)
