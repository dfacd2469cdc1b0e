"""Failures of operations on tokens."""

from registry.core.errors import ErrorKind, RegistryError


class TokenNotFoundError(RegistryError):
    """There is no such token, or it is another's."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Token not found")


class TokenGoneError(RegistryError):
    """There is no such token, it has expired, or it is another's."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Token not found or expired")


class TokenReadsDisabledError(RegistryError):
    """The operator does not let token values out."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("Reading the values of stored tokens is turned off on this registry.")


class TokenUnreadableError(RegistryError):
    """A stored token cannot be decrypted with the current keys. It is left as it is."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__(
            "The stored token cannot be decrypted with the current CREDS_KEY; store it again."
        )


class TooManyGenerationsError(RegistryError):
    """A token was generated with one that was generated with one, and so on, too often."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, most: int) -> None:
        super().__init__(f"Tokens can be generated with generated ones {most} times, not more.")


class UserUnknownError(RegistryError):
    """A token was to be issued for somebody who is no user."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("User not found")


class RoleAboveStoredError(RegistryError):
    """A token was to be issued with a higher role than its user is stored with."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, user_id: str, role: str, stored: str | None) -> None:
        super().__init__(
            f"No token with the role {role} is issued to user {user_id}, whose stored role is "
            f"{stored or 'USER'}. Change the role of the user first."
        )


class UserDisabledError(RegistryError):
    """A token was to be issued to a user who is disabled."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, user_id: str) -> None:
        super().__init__(f"No token is issued to user {user_id}, who is disabled.")


class TokenNotOnRecordError(RegistryError):
    """No token with such a `jti` was ever issued here, as far as the records tell."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, jti: str) -> None:
        super().__init__(
            f"No issued token with the jti {jti!r} is on record, and nothing was revoked. "
            "If an earlier release issued it, revoke it with `unrecorded`."
        )


class UserKeyUnreadableError(RegistryError):
    """A value that a user stored for a server was encrypted with another key, or is damaged."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Your stored {name} cannot be decrypted; store it again, "
            "or tell whoever runs the registry."
        )
