"""Errors of limits."""

from registry.core.errors import ErrorKind, RegistryError


class QuotaContendedError(Exception):
    """Too many processes change the same quota at once."""


class LimitNotFoundError(RegistryError):
    """The limit does not exist, or the caller may not know of it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Limit not found")


class LimitExistsError(RegistryError):
    """Another limit about the same server, or about all, has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, name: str) -> None:
        super().__init__(f"A limit with name {name!r} already exists there", {"field": "name"})


class LimitModifiedError(RegistryError):
    """The limit was changed since it was read."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str | None) -> None:
        super().__init__(
            "The limit was modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class LimitUnreadableError(RegistryError):
    """Another program stored the limit in a form that cannot be changed here."""

    kind = ErrorKind.CONFLICT

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The stored limit has a form that cannot be changed here ({problem}); "
            "remove it and create it again."
        )


class TooManyLimitsError(RegistryError):
    """A server has the maximum number of limits."""

    kind = ErrorKind.CONFLICT

    def __init__(self, most: int) -> None:
        super().__init__(f"There may be {most} limits for this target, and there are.")
