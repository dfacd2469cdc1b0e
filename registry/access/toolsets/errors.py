"""Errors of operations on toolsets."""

from registry.core.errors import ErrorKind, RegistryError


class ToolsetNotFoundError(RegistryError):
    """The toolset does not exist, or the caller may not see it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Toolset not found")


class ToolsetForbiddenError(RegistryError):
    """The caller may see the toolset, and not do this with it."""

    kind = ErrorKind.FORBIDDEN


class ToolsetExistsError(RegistryError):
    """Another toolset of its author has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Its author has a toolset with name {name!r} already.", {"field": "name"}
        )


class ToolsetModifiedError(RegistryError):
    """The toolset was changed since it was read."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str | None) -> None:
        super().__init__(
            "The toolset was modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class DefaultTakenError(RegistryError):
    """A caller has another toolset by default."""

    kind = ErrorKind.CONFLICT

    def __init__(self, key: str, name: str) -> None:
        super().__init__(
            f"{key.partition(':')[0]} {key.partition(':')[2]!r} has the default toolset {name!r}; "
            "remove it there first.",
            {"field": "default_for"},
        )


class TooManyToolsetsError(RegistryError):
    """A user, or a tenant, has the maximum number of toolsets."""

    kind = ErrorKind.CONFLICT

    def __init__(self, most: int) -> None:
        super().__init__(f"The limit of {most} toolsets is reached.")
