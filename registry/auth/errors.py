"""Failures of authentication and scope checks."""

from collections.abc import Sequence

from registry.core.errors import ErrorKind, RegistryError


class UnauthorizedError(RegistryError):
    """No bearer token, or one that cannot be accepted. *reason* never quotes the token."""

    kind = ErrorKind.UNAUTHORIZED

    def __init__(self, reason: str, *, token_was_sent: bool = True) -> None:
        super().__init__(reason)
        self.token_was_sent = token_was_sent


class InsufficientScopeError(RegistryError):
    """The token is good but does not allow this (RFC 6750, 3.1)."""

    kind = ErrorKind.INSUFFICIENT_SCOPE

    def __init__(self, needed: Sequence[str]) -> None:
        self.needed = tuple(needed)
        names = " ".join(needed)
        super().__init__(f"The token needs the scope {names}.", {"scope": names})


class AdminRequiredError(RegistryError):
    """Only an administrator may do this."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("Only an administrator may do this.")
