"""Failures of an authorization server."""

from registry.upstream.errors import UpstreamError


class OAuthError(UpstreamError):
    """An authorization server refused a request, or answered badly.

    Attributes:
        code: The `error` of RFC 6749 5.2 or 4.1.2.1; None if there is none.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class InvalidGrantError(OAuthError):
    """The code or the refresh token is not, or no longer, valid: the user must authorise again."""


class InvalidClientError(OAuthError):
    """The authorization server does not know the client, or no longer: register it again."""


class AuthorizationServerUnavailableError(OAuthError):
    """The authorization server cannot be reached or failed (5xx, 429): tokens stay valid."""


class OAuthMetadataError(OAuthError):
    """Metadata is missing, or contradicts itself, the server or what was stored of it."""
