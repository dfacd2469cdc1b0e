"""Failures of access checks."""

from datetime import datetime

from registry.core.errors import ErrorKind, RegistryError


class AccessDeniedError(RegistryError):
    """The caller may not do this. *rule* is the rule of the policy that refused."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, rule: str) -> None:
        super().__init__(f"You may not do this: {rule}.")
        self.rule = rule


class SharingForbiddenError(RegistryError):
    """The caller sees the resource but may not share it, or not like this."""

    kind = ErrorKind.FORBIDDEN


class ResourceNotFoundError(RegistryError):
    """There is no such resource that the caller may see."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Server not found")


class LastOwnerError(RegistryError):
    """Nobody would be left who may share, change and remove the resource."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("A user must remain as owner, without an end: name another one first.")


class SharingModifiedError(RegistryError):
    """Somebody else changed the entries since they were read."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str) -> None:
        super().__init__(
            "The permissions were modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class UnknownPrincipalError(RegistryError):
    """An entry names somebody who does not exist."""

    kind = ErrorKind.INVALID

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"There is no such principal: {', '.join(names)}", {"unknown_principals": names}
        )


class EntryExpiredError(RegistryError):
    """An entry would end before it begins."""

    kind = ErrorKind.INVALID

    def __init__(self, principal: str, expires_at: datetime) -> None:
        super().__init__(
            f"expiresAt of {principal} is in the past",
            {"expiresAt": expires_at.isoformat()},
        )
