"""Errors of the oauth domain."""

from typing import Self

from registry.core.errors import ErrorKind, RegistryError
from registry.oauth.values import AuthorizationLink, Grant

AGAIN_SECONDS = 5
"""Pause after a renewal failed on which calls waited; they fail at once until then."""


class AuthorizationRequiredError(RegistryError):
    """The user must authorise the registry at a server first.

    Attributes:
        link: Where they can.
        scopes: Those that are missing, if some are granted already.
    """

    kind = ErrorKind.CONFLICT

    def __init__(
        self, server_name: str, link: AuthorizationLink, scopes: tuple[str, ...] = ()
    ) -> None:
        # The link is in no message, for messages are logged.
        super().__init__(
            f"Authorise the registry at {server_name} first.",
            {"authorizationUrl": link.url, "flowId": link.flow_id},
        )
        self.server_name = server_name
        self.link = link
        self.scopes = scopes


class AuthorizationUnavailableError(RegistryError):
    """No usable access token, and none can be obtained now: the user cannot help.

    Args:
        reason: Why, as the authorization server or the network gave it; None if it is not known.
        is_renewal: Whether a stored one was to be renewed; else one was to be obtained.
        authorization: Identifies the stored refresh token that was to be used.
    """

    kind = ErrorKind.UNAVAILABLE

    def __init__(
        self,
        server_name: str,
        reason: str | None = None,
        *,
        is_renewal: bool = True,
        authorization: str | None = None,
    ) -> None:
        what = (
            f"The access token for {server_name} could not be renewed now"
            if is_renewal
            else f"No access token for {server_name} could be obtained"
        )
        is_passing = self.kind is ErrorKind.UNAVAILABLE
        super().__init__(
            f"{what}: {reason}" if reason else f"{what}; try again.",
            {"retry_after_seconds": AGAIN_SECONDS} if is_passing else {},
        )
        self.server_name = server_name
        self._reason = reason
        self._is_renewal = is_renewal
        self.authorization = authorization

    def again(self) -> Self:
        """Return the same error without what it was raised with, to be kept and raised again."""
        return type(self)(
            self.server_name,
            self._reason,
            is_renewal=self._is_renewal,
            authorization=self.authorization,
        )


class TokenRefusedError(AuthorizationUnavailableError):
    """The authorization server refuses to issue an access token, as the server is configured."""

    kind = ErrorKind.UPSTREAM


class LinkInvalidError(RegistryError):
    """A link was not made here, or has expired."""

    kind = ErrorKind.INVALID

    def __init__(self) -> None:
        super().__init__("The link is not valid, or has expired. Ask for a new one.")


class FlowNotFoundError(RegistryError):
    """There is no such flow, or it is another user's."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Flow not found.")


class FlowEndedError(RegistryError):
    """The flow was completed, failed or was cancelled before."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("This authorization was completed or ended before. Ask for a new link.")


class OtherBrowserError(RegistryError):
    """The authorization response arrived in another browser than the one that asked for it."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "This authorization was started in another browser, or the browser keeps no cookies. "
            "Nothing was changed."
        )


class OtherPageError(RegistryError):
    """The button was not pressed on the registry's own page."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("Another site sent you here. Open the link itself. Nothing was changed.")


class AuthorizationFailedError(RegistryError):
    """A flow failed; the message says why, without anything secret."""

    kind = ErrorKind.UPSTREAM


class NoOAuthError(RegistryError):
    """Users do not authorise the registry at the server.

    Args:
        grant: How the registry obtains access tokens for it; None if it takes none.
    """

    kind = ErrorKind.CONFLICT

    def __init__(self, grant: Grant | None = None) -> None:
        why = (
            "it needs no OAuth"
            if grant is None
            else f"the registry obtains access tokens for it by itself ({grant})"
        )
        super().__init__(f"Users do not authorise the registry at this server: {why}.")


class NotAuthorizedError(RegistryError):
    """The user has no tokens for the server."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("You have not authorised the registry at this server.")


class NoClientMetadataError(RegistryError):
    """The registry has no public URL, so no authorization server can fetch its metadata."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("The registry is not a public client: PUBLIC_URL is not an https URL.")
