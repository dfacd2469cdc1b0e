"""Well-known routes for clients: JWKS, protected resource metadata, refusal of registration."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.responses import Response

from registry.auth.errors import AUTHENTICATION_HELP
from registry.auth.identity import Scope
from registry.auth.keys import SigningKeys
from registry.web.errors import ErrorEnvelope, JsonAnswer

KEYS_MAX_AGE_SECONDS = 300
"""How long clients may cache the key set; a new key must be published that long before use."""

MAX_SLUG_CHARACTERS = 200
"""Longer than any server's path; longer values are not echoed."""


class KeySet(BaseModel):
    """A JSON Web Key Set."""

    keys: list[dict[str, str]]


class ResourceMetadata(BaseModel):
    """Protected resource metadata."""

    resource: str
    bearer_methods_supported: list[str]
    scopes_supported: list[str]
    resource_name: str


class RegistrationRefusal(BaseModel):
    """An error of RFC 7591, in our envelope."""

    error: str
    error_description: str
    message: str


def auth_router(keys: SigningKeys, base_url: str) -> APIRouter:
    """Return the open, unversioned routes under `/.well-known`."""
    router = APIRouter(tags=["auth"])
    cacheable = {"Cache-Control": f"public, max-age={KEYS_MAX_AGE_SECONDS}"}

    def metadata(resource: str) -> Response:
        return JsonAnswer(
            {
                "resource": resource,
                "bearer_methods_supported": ["header"],
                "scopes_supported": [scope.value for scope in Scope],
                "resource_name": "MCP gateway registry",
            },
            headers=cacheable,
        )

    @router.get("/.well-known/jwks.json", operation_id="jwks", response_model=KeySet)
    async def jwks() -> Response:
        """Return the public keys that verify our tokens (RFC 7517)."""
        return JsonAnswer({"keys": [keys.jwk]}, headers=cacheable)

    @router.get(
        "/.well-known/oauth-protected-resource",
        operation_id="resource_metadata",
        response_model=ResourceMetadata,
    )
    async def root_metadata() -> Response:
        """Return the API's protected resource metadata (RFC 9728)."""
        return metadata(base_url)

    @router.get(
        "/.well-known/oauth-protected-resource/mcp",
        operation_id="combined_metadata",
        response_model=ResourceMetadata,
    )
    async def combined_metadata() -> Response:
        """Return the metadata of the aggregate server's path."""
        return metadata(f"{base_url}/mcp")

    @router.get(
        "/.well-known/oauth-protected-resource/mcp/{slug}",
        operation_id="gateway_metadata",
        response_model=ResourceMetadata,
        responses={422: {"model": ErrorEnvelope, "description": "The path is too long."}},
    )
    async def gateway_metadata(
        slug: Annotated[str, Path(max_length=MAX_SLUG_CHARACTERS)],
    ) -> Response:
        """Return a gateway path's metadata. Any name has one, so that no server is revealed."""
        return metadata(f"{base_url}/mcp/{slug}")

    @router.post(
        "/register",
        operation_id="register_oauth_client",
        status_code=400,
        response_model=RegistrationRefusal,
        responses={400: {"model": RegistrationRefusal, "description": "Always."}},
    )
    async def register_client() -> Response:
        """Refuse to register an OAuth client (RFC 7591, section 3.2.2), with an explanation.

        Clients without an accepted token look for an authorization server, and without its
        metadata try this path (MCP authorization, 2025-03-26). They show this answer to users.
        """
        message = f"This registry has no OAuth authorization server. {AUTHENTICATION_HELP}"
        return JsonAnswer(
            {"error": "invalid_request", "error_description": message, "message": message}, 400
        )

    return router
