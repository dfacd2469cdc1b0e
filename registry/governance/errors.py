"""Failures of operations on tools."""

from registry.core.errors import ErrorKind, RegistryError


class ToolNotFoundError(RegistryError):
    """There is no such tool, or the caller may not know of it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Tool not found")


class ToolForbiddenError(RegistryError):
    """The caller sees the tool but may not decide about it."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("You may not change the server of this tool.")


class HiddenToolsForbiddenError(RegistryError):
    """The caller asked for what only those who administer a server see."""

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
            "The tool was modified meanwhile; read it again.",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class ToolStateError(RegistryError):
    """The tool is in a state in which that cannot happen."""

    kind = ErrorKind.CONFLICT


class NothingPendingError(ToolStateError):
    """There is nothing to accept or to reject."""

    def __init__(self) -> None:
        super().__init__("Nothing about this tool waits for a decision.")


class ToolSupersededError(RegistryError):
    """What was decided on is not what waits by now."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current: str | None) -> None:
        super().__init__(
            "The tool's definition is another one by now; read it again.",
            {"current_hash": current},
        )


class VersionNotFoundError(RegistryError):
    """The tool has no such version."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("The tool has no such version")
