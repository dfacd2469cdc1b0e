"""What answers say of a default that a request gave: what follows from it for callers."""

from typing import cast

from fastapi import Request
from pydantic import BaseModel

from packages.models.states import Effect
from registry.auth.identity import UserContext
from registry.core.json import JsonObject
from registry.servers.ports import DefaultEffects


def _defaults(request: Request) -> DefaultEffects:
    return cast("DefaultEffects", request.app.state.policies)


async def former_of(
    request: Request, body: BaseModel, server_id: str | None = None
) -> Effect | None:
    """Return the default that a body is about to replace; None if it gives none.

    Args:
        request: The request.
        body: Its body.
        server_id: The server; None for a new one.
    """
    if "default_effect" not in body.model_fields_set:
        return None
    return Effect.ALLOW if server_id is None else await _defaults(request).default_of(server_id)


async def told(
    request: Request, server_id: str, former: Effect | None, user: UserContext
) -> JsonObject:
    """Return the member `consequence` of the answer; nothing if the request gave no default."""
    if former is None:
        return {}
    said = await _defaults(request).default_consequence(server_id, former, user)
    return {"consequence": said}
