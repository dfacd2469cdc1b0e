"""Errors of the oauth domain."""

from registry.core.errors import RegistryError
from registry.oauth.values import AuthorizationLink


class AuthorizationRequiredError(RegistryError):
    """The user must authorise the registry at a server first.

    Attributes:
        link: Where they can.
        scopes: Those that are missing, if some are granted already.
    """

    def __init__(
        self, server_name: str, link: AuthorizationLink, scopes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(f"Authorise the registry at {server_name} first: {link.url}")
        self.server_name = server_name
        self.link = link
        self.scopes = scopes


class AuthorizationUnavailableError(RegistryError):
    """No usable access token, and the authorization server cannot be reached to renew it."""

    def __init__(self, server_name: str) -> None:
        super().__init__(
            f"The access token for {server_name} has expired and could not be renewed now; "
            "try again."
        )
        self.server_name = server_name
