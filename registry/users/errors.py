"""Errors of operations on users and groups."""

from registry.core.errors import ErrorKind, RegistryError


class UserNotFoundError(RegistryError):
    """The user does not exist."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("User not found")


class GroupNotFoundError(RegistryError):
    """The group does not exist."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Group not found")


class UserExistsError(RegistryError):
    """Another user has the email address or the username."""

    kind = ErrorKind.CONFLICT

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"A user with {field} {value!r} already exists", {"field": field})


class GroupExistsError(RegistryError):
    """Another group has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, name: str) -> None:
        super().__init__(f"A group with name {name!r} already exists", {"field": "name"})


class UnknownMembersError(RegistryError):
    """New members of a group do not exist as users."""

    kind = ErrorKind.INVALID

    def __init__(self, user_ids: list[str]) -> None:
        super().__init__(
            f"There is no such user: {', '.join(user_ids)}", {"unknown_users": user_ids}
        )


class TooManyMembersError(RegistryError):
    """A group would exceed the maximum number of members."""

    kind = ErrorKind.CONFLICT

    def __init__(self, max_members: int) -> None:
        super().__init__(f"A group has at most {max_members} members.")


class LastAdministratorError(RegistryError):
    """The change would leave the registry without an administrator."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("The last administrator cannot be removed: make another user one first.")


class DirectoryElsewhereError(RegistryError):
    """Users and groups can be changed only in jarvis-api."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "Users and groups belong to the application that shares the database "
            "(USER_DIRECTORY=shared): change them there, or set USER_DIRECTORY=registry where "
            "there is no such application.",
            {"user_directory": "shared"},
        )
