"""The caller's authority as it stands in an endpoint's signature."""

from collections.abc import Mapping
from typing import Any, cast

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from typing_extensions import override

from registry.auth.bearer import BearerAuthenticator
from registry.auth.errors import InsufficientScopeError, UnauthorizedError
from registry.auth.identity import Scope, UserContext
from registry.core.errors import RegistryError


class Caller(HTTPBearer):
    """A dependency: the verified caller, whose token must allow *scopes*.

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
        if user.lacks(*self.needed_scopes):
            raise InsufficientScopeError(self.needed_scopes)
        return user


def needs(*scopes: Scope) -> Any:
    """Return the dependency that lets in whoever holds all of *scopes*, and documents them."""
    return Security(Caller(*scopes), scopes=[scope.value for scope in scopes])


def challenge(error: RegistryError, metadata_url: str) -> Mapping[str, str]:
    """Return the `WWW-Authenticate` header of a refusal (RFC 6750, 3; RFC 9728, 5.1)."""
    parts = [f'resource_metadata="{metadata_url}"']
    match error:
        case UnauthorizedError(token_was_sent=True):
            parts.insert(0, 'error="invalid_token"')
        case UnauthorizedError():
            pass
        case InsufficientScopeError(needed=needed):
            parts[:0] = ['error="insufficient_scope"', f'scope="{" ".join(needed)}"']
        case _:
            return {}
    return {"WWW-Authenticate": "Bearer " + ", ".join(parts)}
