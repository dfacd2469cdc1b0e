"""The caller's authority as it stands in an endpoint's signature."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from registry.auth.bearer import BearerAuthenticator
from registry.auth.errors import InsufficientScopeError, UnauthorizedError
from registry.auth.identity import Scope, UserContext
from registry.core.errors import RegistryError

bearer_scheme = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="Our own RS256 or jarvis-api's HS256 JWT."
)
"""Declares the scheme in the OpenAPI document; the check itself is ours."""


def caller(*scopes: Scope) -> Callable[[Request], Awaitable[UserContext]]:
    """Return a dependency: the verified caller, whose token must allow *scopes*.

    Raises (the dependency):
        UnauthorizedError: No acceptable bearer token.
        InsufficientScopeError: The token does not allow this; names all missing scopes.
    """

    async def dependency(
        request: Request, _scheme: Annotated[object, Depends(bearer_scheme)] = None
    ) -> UserContext:
        authenticator = cast("BearerAuthenticator", request.app.state.authenticator)
        header = request.headers.getlist("authorization")
        if len(header) > 1:
            raise UnauthorizedError("Only one Authorization header may be sent.")
        user = await authenticator.authenticate(header[0] if header else None)
        if user.lacks(*scopes):
            raise InsufficientScopeError(scopes)
        return user

    dependency.__dict__["needed_scopes"] = scopes
    return dependency


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
