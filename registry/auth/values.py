"""Values of the auth domain."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """What `users` and `groups` say of one person.

    Attributes:
        role: As stored, for example `ADMIN`; None when there is none.
        groups: ObjectIds of the person's groups, 24 hexadecimal characters each.
    """

    role: str | None
    username: str
    groups: frozenset[str]
