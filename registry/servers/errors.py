"""Failures of operations on servers."""

from collections.abc import Sequence
from datetime import UTC, datetime

from registry.core.errors import ErrorKind, RegistryError, ValidationFailedError
from registry.core.text import timestamp

USER_VARIABLE = "MCP_API_KEY"
"""The value that stands for a user's API key, here and in jarvis-api."""


class ServerNotFoundError(RegistryError):
    """The server does not exist, or the caller may not know of it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, *, is_api: bool = False) -> None:
        super().__init__(f"{'API' if is_api else 'Server'} not found")


class ServerTurnedOffError(RegistryError):
    """The server is turned off, and is not contacted."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("The server is turned off.")


class ServerExistsError(RegistryError):
    """Another server or API has the same name or path."""

    kind = ErrorKind.CONFLICT

    def __init__(self, field: str, value: str, *, is_api: bool = False) -> None:
        message = f"A server with {field} {value!r} already exists"
        if is_api:
            field = "name" if field == "serverName" else field
            message = f"An API or server with {field} {value!r} already exists"
        super().__init__(message, {"field": field})


class ServerModifiedError(RegistryError):
    """The server changed since the caller read it."""

    kind = ErrorKind.CONFLICT

    def __init__(
        self, current: datetime, provided: datetime | None, *, is_api: bool = False
    ) -> None:
        facts: dict[str, object] = {"current_updated_at": _timestamp(current)}
        if provided is not None:
            facts["provided_updated_at"] = _timestamp(provided)
        what = "API" if is_api else "Server"
        super().__init__(f"{what} was modified by another process", facts)


class UnknownEtagError(RegistryError):
    """`If-Match` contains a tag that this API never issued (RFC 9110, section 13.1.1)."""

    kind = ErrorKind.PRECONDITION_FAILED

    def __init__(self) -> None:
        super().__init__(
            "If-Match is not an ETag of this resource; send the ETag header of its last response."
        )


class ServerForbiddenError(RegistryError):
    """The caller may see the server but not do this to it."""

    kind = ErrorKind.FORBIDDEN


class ServerUnusableError(RegistryError):
    """Another program stored the server in a form that cannot be changed here."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__(
            "The stored server has a form that cannot be changed here; "
            "remove it and register it again."
        )


class UnsafeUrlError(ValidationFailedError):
    """A URL that the registry must not contact. *reason* is safe to show."""

    def __init__(self, reason: str, field: str = "url") -> None:
        super().__init__(field, reason)


class DiscoveryFailedError(RegistryError):
    """A discovery failed. The message is safe to store and show."""

    kind = ErrorKind.UPSTREAM


class CredentialsRefusedError(DiscoveryFailedError):
    """An upstream refused its credentials.

    Attributes:
        is_forbidden: Whether they are valid, and do not suffice.
    """

    def __init__(self, message: str, *, is_forbidden: bool = False) -> None:
        super().__init__(message)
        self.is_forbidden = is_forbidden


class OAuthRequiredError(CredentialsRefusedError):
    """An upstream refused the request and says where its OAuth metadata is."""


class CredentialUnreadableError(RegistryError):
    """A stored secret cannot be decrypted with the current keys. It is left unchanged."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, collection: str, document_id: str, field: str) -> None:
        super().__init__(
            f"The stored credential {collection}/{document_id}/{field} cannot be decrypted with "
            "the current CREDS_KEY; enter it again."
        )


class CredentialUnusableError(RegistryError):
    """A key or a header's value has characters that are not allowed in headers."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, header: str) -> None:
        super().__init__(
            f"The value for the header {header} has characters that headers cannot contain (only "
            "printable ASCII can be sent); enter it again."
        )


class UserKeyMissingError(RegistryError):
    """The server needs values of each user's own, and this user has not stored them all."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, names: Sequence[str] = (USER_VARIABLE,), *, is_api: bool = False) -> None:
        wanted = (
            "an API key of your own"
            if list(names) == [USER_VARIABLE]
            else ", ".join(sorted(names))
        )
        self.reason = f"it needs {wanted}, and you have stored none"
        super().__init__(
            f"This {'API' if is_api else 'server'} needs {wanted}, and you have stored none; "
            "PUT /api/v1/servers/{id}/user-keys stores it."
        )


class ServerMovedError(RegistryError):
    """A server was moved to another URL during a call."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, server_name: str) -> None:
        super().__init__(
            f"Server {server_name} was moved to another URL during the call; call again."
        )


class UnknownVariableError(RegistryError):
    """The server has no such user variable."""

    kind = ErrorKind.INVALID

    def __init__(self, names: Sequence[str], known: Sequence[str]) -> None:
        super().__init__(
            f"This server has no user variable {', '.join(names)}"
            + (f"; it has {', '.join(known)}." if known else "; it has none.")
        )


class UserKeyNotFoundError(RegistryError):
    """The caller has not stored the value."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("You have not stored this value for this server")


class ListsOutdatedError(RegistryError):
    """The data behind lists is too old, because the database has been unavailable for too long.

    `GATEWAY_MAX_STALENESS_SECONDS` is the limit, as for the gateway.
    """

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "Lists are out of date: this registry lost its database connection a while ago. "
            "Try again in a moment."
        )


class PathTakenError(ServerExistsError):
    """Another server or API has the gateway path."""

    def __init__(self, path: str, *, is_api: bool = False) -> None:
        super().__init__("path", path, is_api=is_api)


def _timestamp(moment: datetime) -> str:
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        # A time within a day of the calendar's ends is shown as it was sent.
        return moment.isoformat()
    return timestamp(moment)


class ServerVersionNotFoundError(RegistryError):
    """The server does not have that version, or not any more."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, version: int) -> None:
        super().__init__(f"The server has no version {version}")


class VersionInUseError(RegistryError):
    """The server's connection is already that of the version."""

    kind = ErrorKind.CONFLICT

    def __init__(self, version: int) -> None:
        super().__init__(f"The server already has the connection of version {version}.")


class VersionUnreadableError(RegistryError):
    """Secrets of the version cannot be decrypted, so it cannot be restored."""

    kind = ErrorKind.CONFLICT

    def __init__(self, version: int, places: Sequence[str]) -> None:
        super().__init__(
            f"Version {version} cannot be restored: its {', '.join(places)} cannot be "
            "decrypted with the current CREDS_KEY. Change the server and enter them again.",
            {"unreadable": list(places)},
        )
