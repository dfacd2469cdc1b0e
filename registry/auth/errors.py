"""Errors of authentication and scope checks."""

from collections.abc import Sequence

from registry.core.errors import ErrorKind, RegistryError

REALM = 'Bearer realm="mcp-gateway-registry"'

AUTHENTICATION_HELP = (
    "Send the header Authorization: Bearer TOKEN; an operator creates tokens with `registry token "
    "create`, and a token's owner creates narrower ones with POST /api/v1/tokens/generate."
)


class UnauthorizedError(RegistryError):
    """The bearer token is missing or not accepted. *reason* never quotes the token."""

    kind = ErrorKind.UNAUTHORIZED

    def __init__(self, reason: str, *, token_was_sent: bool = True) -> None:
        super().__init__(reason)
        self.token_was_sent = token_was_sent


class InsufficientScopeError(RegistryError):
    """The token is valid but lacks a scope (RFC 6750, 3.1)."""

    kind = ErrorKind.INSUFFICIENT_SCOPE

    def __init__(self, needed: Sequence[str]) -> None:
        self.needed = tuple(needed)
        names = " ".join(needed)
        super().__init__(f"The token needs the scope {names}.", {"scope": names})


def challenge(error: RegistryError) -> str | None:
    """Return the `WWW-Authenticate` header for an error (RFC 6750, section 3), or None.

    It has no `resource_metadata` (RFC 9728, section 5.1): clients would look for an authorization
    server, and none issues tokens for this registry.
    """
    match error:
        case UnauthorizedError(token_was_sent=True):
            return f'{REALM}, error="invalid_token", error_description="{error.message}"'
        case UnauthorizedError():
            return REALM
        case InsufficientScopeError(needed=needed):
            return f'{REALM}, error="insufficient_scope", scope="{" ".join(needed)}"'
        case _:
            return None


class AdminRequiredError(RegistryError):
    """Only an administrator may do this.

    Args:
        asked: What was asked for, as the subject of a sentence. It reveals nothing about others.
    """

    kind = ErrorKind.FORBIDDEN

    def __init__(self, asked: str) -> None:
        message = f"{asked} needs the role ADMIN, which this token's user does not have."
        super().__init__(message, {"role": "ADMIN"})
