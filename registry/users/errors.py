"""Failures of operations on users and groups."""

from registry.core.errors import ErrorKind, RegistryError


class UserNotFoundError(RegistryError):
    """There is no such user."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("User not found")


class GroupNotFoundError(RegistryError):
    """There is no such group."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Group not found")


class UserExistsError(RegistryError):
    """Another user has the address or the username."""

    kind = ErrorKind.CONFLICT

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"A user with {field} {value!r} already exists", {"field": field})


class GroupExistsError(RegistryError):
    """Another group has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, name: str) -> None:
        super().__init__(f"A group with name {name!r} already exists", {"field": "name"})


class UnknownMembersError(RegistryError):
    """A group should get members who are no users."""

    kind = ErrorKind.INVALID

    def __init__(self, user_ids: list[str]) -> None:
        super().__init__(
            f"There is no such user: {', '.join(user_ids)}", {"unknown_users": user_ids}
        )


class TooManyMembersError(RegistryError):
    """A group would get more members than one document should hold."""

    kind = ErrorKind.CONFLICT

    def __init__(self, most: int) -> None:
        super().__init__(f"A group has at most {most} members.")


class LastAdministratorError(RegistryError):
    """Nobody would be left who administers the registry."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("An administrator must remain: make another user one first.")


class DirectoryElsewhereError(RegistryError):
    """Users and groups are another application's to change."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "Users and groups belong to the application that shares the database "
            "(USER_DIRECTORY=shared): change them there, or set USER_DIRECTORY=registry where "
            "there is no such application.",
            {"user_directory": "shared"},
        )
