"""Links under which people can authorise the registry at a server.

A link contains all that is needed to start a flow, sealed: making one costs no I/O, so that every
call of a user who has not authorised yet can be answered with one.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
from cachetools import TTLCache

from registry.auth.identity import Role, UserContext
from registry.core.clock import Clock
from registry.core.seal import Seal
from registry.oauth.values import AuthorizationLink, OAuthServer

START_PATH = "/api/v1/mcp/oauth/start"
CALLBACK_PATH = "/api/v1/mcp/oauth/callback"
METADATA_PATH = "/api/v1/mcp/oauth/client.json"
SIGNING_METADATA_PATH = "/api/v1/mcp/oauth/signing-client.json"
"""Two documents, because each names one way of authentication: none, or `private_key_jwt`."""

LINK_LIFETIME = timedelta(minutes=10)
REMEMBERED = 10_000
FLOW_ID_BYTES = 16
MAX_SCOPES_CHARACTERS = 2_000
"""A server names scopes in its challenge; with more, the link would be too long to be opened."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a link contains.

    Attributes:
        flow_id: Of the flow that it starts.
        role: The role of the user's token, which may be lower than the stored one.
        is_service_account: Whether the user need not be stored.
        scopes: Asked for besides those that are granted or usual.
    """

    flow_id: str
    user_id: str
    username: str
    role: Role
    is_service_account: bool
    tenant_id: str | None
    server_id: str
    scopes: tuple[str, ...]
    expires_at: datetime


class LinkSeal:
    """Makes and opens links. Implements `ports.AuthorizationLinks`.

    Args:
        keys: 32 bytes each, used for nothing else.
        base_url: The public URL of the registry.
    """

    def __init__(self, keys: Sequence[bytes], base_url: str, clock: Clock) -> None:
        self._seal = Seal(keys, "oauth-link/1")
        self._base_url = base_url
        self._clock = clock
        # Kept for half of its life, so that a link is always good for a few minutes.
        self._made: TTLCache[tuple[object, ...], AuthorizationLink] = TTLCache(
            REMEMBERED, LINK_LIFETIME.total_seconds() / 2, timer=clock.monotonic
        )

    def link(
        self, user: UserContext, server: OAuthServer, scopes: tuple[str, ...] = ()
    ) -> AuthorizationLink:
        """Return a link for *user*; the same one for a while. No I/O."""
        scopes = _bounded(scopes)
        # With all that a link says of the user: jobs that read for a user know less of them.
        about = (user.username, user.role, user.is_service_account, user.tenant_id)
        key = (user.user_id, server.id, about, scopes)
        link = self._made.get(key)
        if link is None:
            link = self._made[key] = self._new(user, server, scopes)
        return link

    def forget(self, user_id: str, server_id: str) -> None:
        """Make new links from now on: a flow was started by those that exist."""
        for key in [*self._made]:
            if key[:2] == (user_id, server_id):
                self._made.pop(key, None)

    def open(self, sealed: str) -> Ticket | None:
        """Return what a link contains; None if it was not made here or has expired."""
        content = self._seal.open(sealed, self._clock.now())
        if content is None:
            return None
        found = orjson.loads(content)
        return Ticket(
            found["f"],
            found["u"],
            found["n"],
            Role(found["r"]),
            found["a"],
            found["t"],
            found["s"],
            tuple(found["c"]),
            datetime.fromisoformat(found["e"]),
        )

    def _new(
        self, user: UserContext, server: OAuthServer, scopes: tuple[str, ...]
    ) -> AuthorizationLink:
        flow_id = secrets.token_urlsafe(FLOW_ID_BYTES)
        expires_at = self._clock.now() + LINK_LIFETIME
        content = {
            "f": flow_id,
            "u": user.user_id,
            "n": user.username,
            "r": user.role.value,
            "a": user.is_service_account,
            "t": user.tenant_id,
            "s": server.id,
            "c": scopes,
            "e": expires_at.isoformat(),
        }
        ticket = self._seal.seal(orjson.dumps(content), expires_at)
        url = f"{self._base_url}{START_PATH}?ticket={ticket}"
        return AuthorizationLink(flow_id, url, expires_at)


def _bounded(scopes: tuple[str, ...]) -> tuple[str, ...]:
    left, kept = MAX_SCOPES_CHARACTERS, []
    for scope in scopes:
        left -= len(scope) + 1
        if left < 0:
            break
        kept.append(scope)
    return tuple(kept)
