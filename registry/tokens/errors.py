"""Errors of operations on tokens."""

from registry.core.errors import ErrorKind, RegistryError


class TokenNotFoundError(RegistryError):
    """The token does not exist, or belongs to another user."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Token not found")


class TokenGoneError(RegistryError):
    """The token does not exist, has expired, or belongs to another user."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Token not found or expired")


class TokenReadsDisabledError(RegistryError):
    """Reading token values is disabled by the operator."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("Reading the values of stored tokens is turned off on this registry.")


class TokenUnreadableError(RegistryError):
    """A stored token cannot be decrypted with the current keys. It is left unchanged."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__(
            "The stored token cannot be decrypted with the current CREDS_KEY; store it again."
        )


class TooManyGenerationsError(RegistryError):
    """The chain of tokens that were generated with generated ones is too long."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, max_generations: int) -> None:
        super().__init__(f"A chain of generated tokens has at most {max_generations} generations.")


class UserUnknownError(RegistryError):
    """A token was requested for a user that does not exist."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("User not found")


class RoleAboveStoredError(RegistryError):
    """A token was requested with a higher role than the stored one of its user."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, user_id: str, role: str, stored: str | None) -> None:
        super().__init__(
            f"No token with the role {role} is issued to user {user_id}, whose stored role is "
            f"{stored or 'USER'}. Change the role of the user first."
        )


class UserDisabledError(RegistryError):
    """A token was requested for a disabled user."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, user_id: str) -> None:
        super().__init__(f"User {user_id} is disabled: no token can be issued.")


class TokenNotOnRecordError(RegistryError):
    """No issued token with this `jti` is on record."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, jti: str) -> None:
        super().__init__(
            f"No issued token with the jti {jti!r} is on record, and nothing was revoked. "
            "If an earlier release issued it, revoke it with `unrecorded`."
        )


class UserKeyUnreadableError(RegistryError):
    """A user's stored value for a server was encrypted with another key, or is damaged."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Your stored {name} cannot be decrypted; store it again, "
            "or contact the operator of the registry."
        )
