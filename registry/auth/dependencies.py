"""FastAPI dependencies that authenticate the caller and check the token's scopes."""

from typing import Any, Protocol, cast

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from typing_extensions import override

from registry.auth.bearer import BearerAuthenticator
from registry.auth.errors import InsufficientScopeError, UnauthorizedError
from registry.auth.identity import Scope, UserContext


class CallerChecks(Protocol):
    """Refuses callers whatever their tokens say."""

    def require_caller(self, user: UserContext) -> None:
        """Check that a caller is not refused now.

        Raises:
            RegistryError: They are.
        """


class Caller(HTTPBearer):
    """Dependency that returns the verified caller, whose token must allow *scopes*.

    FastAPI's class declares the scheme in the OpenAPI document; the check itself is ours.

    Raises (when called):
        UnauthorizedError: No acceptable bearer token.
        InsufficientScopeError: The token does not allow this; names all missing scopes.
    """

    def __init__(self, *scopes: Scope) -> None:
        super().__init__(
            bearerFormat="JWT",
            scheme_name="HTTPBearer",
            description="Our own RS256 or jarvis-api's HS256 JWT.",
            auto_error=False,
        )
        self.needed_scopes = scopes

    @override
    async def __call__(self, request: Request) -> UserContext:  # type: ignore[override]  # knows more
        authenticator = cast("BearerAuthenticator", request.app.state.authenticator)
        header = request.headers.getlist("authorization")
        if len(header) > 1:
            raise UnauthorizedError("Only one Authorization header may be sent.")
        user = await authenticator.authenticate(header[0] if header else None)
        request.state.caller = user
        checks = cast("CallerChecks", request.app.state.quarantines)
        checks.require_caller(user)
        if user.lacks(*self.needed_scopes):
            raise InsufficientScopeError(self.needed_scopes)
        return user


def needs(*scopes: Scope) -> Any:
    """Return the dependency that requires all of *scopes*, and documents them."""
    return Security(Caller(*scopes), scopes=[scope.value for scope in scopes])
