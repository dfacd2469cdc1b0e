"""Failures of operations on versions of servers."""

from collections.abc import Sequence

from registry.core.errors import ErrorKind, RegistryError


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
