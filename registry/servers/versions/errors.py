"""Failures of operations on versions of servers."""

from collections.abc import Sequence

from registry.core.errors import ErrorKind, RegistryError


class ServerVersionNotFoundError(RegistryError):
    """The server has no such version, or has it no more."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, version: int) -> None:
        super().__init__(f"The server has no version {version}")


class VersionInUseError(RegistryError):
    """The server is reached as that version says already."""

    kind = ErrorKind.CONFLICT

    def __init__(self, version: int) -> None:
        super().__init__(f"The server is reached as version {version} says already.")


class VersionUnreadableError(RegistryError):
    """Secrets of the version cannot be decrypted, so it cannot be brought back as it was."""

    kind = ErrorKind.CONFLICT

    def __init__(self, version: int, places: Sequence[str]) -> None:
        super().__init__(
            f"Version {version} cannot be brought back: its {', '.join(places)} cannot be "
            "decrypted with the current CREDS_KEY. Change the server instead, and enter it again.",
            {"unreadable": list(places)},
        )
