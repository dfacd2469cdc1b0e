"""Errors of access checks."""

from datetime import datetime

from registry.core.errors import ErrorKind, RegistryError


class AccessDeniedError(RegistryError):
    """The caller may not do this. *rule* is the rule of the policy that refused."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, rule: str) -> None:
        super().__init__(f"You may not do this: {rule}.")
        self.rule = rule


class SharingForbiddenError(RegistryError):
    """The caller may see the resource but not share it, or not in this way."""

    kind = ErrorKind.FORBIDDEN


class ResourceNotFoundError(RegistryError):
    """The resource does not exist, or the caller may not see it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, noun: str = "server") -> None:
        super().__init__(f"{noun.capitalize()} not found")


class LastOwnerError(RegistryError):
    """The change would leave no user with all rights on the resource."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("At least one user must remain as owner without expiry; add one first.")


class SharingModifiedError(RegistryError):
    """The entries were changed since they were read."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str) -> None:
        super().__init__(
            "The permissions were modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class UnknownPrincipalError(RegistryError):
    """An entry names a principal that does not exist."""

    kind = ErrorKind.INVALID

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"Unknown principal: {', '.join(names)}", {"unknown_principals": names})


class EntryExpiredError(RegistryError):
    """An entry would expire in the past."""

    kind = ErrorKind.INVALID

    def __init__(self, principal: str, expires_at: datetime) -> None:
        super().__init__(
            f"expiresAt of {principal} is in the past",
            {"expiresAt": expires_at.isoformat()},
        )
