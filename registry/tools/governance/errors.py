"""Failures of operations on tools."""

from registry.core.errors import ErrorKind, RegistryError


class ToolNotFoundError(RegistryError):
    """The tool does not exist, or the caller may not know of it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Tool not found")


class ToolForbiddenError(RegistryError):
    """The caller may see the tool but not decide about it."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("You may not change the server of this tool.")


class HiddenToolsForbiddenError(RegistryError):
    """The caller asked for what only administrators of a server may see."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "include_stale and include_disabled are for administrators, and with owner_id for "
            "those who may change that server."
        )


class ToolModifiedError(RegistryError):
    """The tool changed since the caller read it."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str) -> None:
        super().__init__(
            "The tool was modified since it was read; read it again.",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class ToolStateError(RegistryError):
    """The event is impossible in the tool's state."""

    kind = ErrorKind.CONFLICT


class NothingPendingError(ToolStateError):
    """There is nothing to accept or to reject."""

    def __init__(self) -> None:
        super().__init__(
            "Nothing about this tool waits for a decision; a definition that was rejected is "
            "served after a rollback to its version."
        )


class ToolSupersededError(RegistryError):
    """The pending definition is not the one that was decided on."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current: str | None) -> None:
        super().__init__(
            "The tool's definition has changed; read it again.",
            {"current_hash": current},
        )


class VersionNotFoundError(RegistryError):
    """The tool has no such version."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("The tool has no such version")
