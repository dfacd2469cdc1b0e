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


class UserKeyUnreadableError(RegistryError):
    """A value that a user stored for a server was encrypted with another key, or is damaged."""

    kind = ErrorKind.UPSTREAM

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Your stored {name} cannot be decrypted; store it again, "
            "or tell whoever runs the registry."
        )
