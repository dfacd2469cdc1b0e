"""Sessions of clients with the gateway itself, contained in the ids they are known by.

Where the gateway is the server of a client of the handshake's era, the session id holds what was
agreed at its beginning, sealed for its owner: any worker and replica can serve it, none stores it.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from cachetools import LRUCache

from registry.auth.identity import UserContext
from registry.core.json import JsonObject, members
from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.errors import SessionUnknown
from registry.servers.values import Era

REMEMBERED = 2_000
"""Sessions that are remembered as read, 0.8 kB each; reading one takes 3 us."""

OWN_MARK = "\x01"
"""Begins what is sealed into an id of the gateway's own; no upstream's id does."""

CLIENT_FEATURES = ("sampling", "elicitation", "roots")
"""Client capabilities that a server may make use of."""

MAX_CAPABILITIES_BYTES = 1024
MAX_NAME_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class ClientSession:
    """What was agreed at the beginning of a session.

    Attributes:
        id: As its client knows it.
        nonce: Tells it apart; may be shown to other workers.
        version: The protocol version.
        capabilities: The client's, of those that servers may make use of.
        info: Name and version of the client.
    """

    id: str
    nonce: str
    version: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


class ClientSessions:
    """Makes ids of sessions, and reads them.

    Args:
        seal: Seals them.
    """

    def __init__(self, seal: SessionSeal) -> None:
        self._seal = seal
        self._read: LRUCache[tuple[str, str, str], ClientSession] = LRUCache(REMEMBERED)

    def begin(
        self, user: UserContext, scope_id: str, version: str, params: Mapping[str, Any]
    ) -> ClientSession:
        """Return a new session of *user*.

        Args:
            user: Whose alone it is.
            scope_id: What it is with: a server's id, or the combined server's.
            version: The version agreed on.
            params: Of the client's `initialize`.
        """
        content = {
            "n": secrets.token_urlsafe(12),
            "v": version,
            "c": usable_capabilities(params.get("capabilities")),
            "i": _usable_info(params.get("clientInfo")),
        }
        text = OWN_MARK + orjson.dumps(content).decode()
        sealed = self._seal.seal(text, principal=user.principal, server_id=scope_id)
        return _session(sealed, content)

    def resume(self, user: UserContext, scope_id: str, sealed: str) -> ClientSession:
        """Return the session that *sealed* is the id of.

        Raises:
            SessionUnknown: It is none of this user's with this server.
        """
        # Opened each time, because it may have expired meanwhile; the seal remembers too.
        text = self._seal.open(sealed, principal=user.principal, server_id=scope_id)
        key = (sealed, user.principal, scope_id)
        session = self._read.get(key)
        if session is None:
            if not text.startswith(OWN_MARK):
                # The server behind this path spoke another era when the session began.
                raise SessionUnknown
            session = self._read[key] = _session(sealed, orjson.loads(text.removeprefix(OWN_MARK)))
        return session

    def end(self, session: ClientSession) -> str:
        """Resume *session* no more; return what `end_named` of other workers takes."""
        return self._seal.end(session.id)

    def end_named(self, name: str) -> None:
        """Do what `end` did in the worker that returned *name*."""
        self._seal.end_named(name)


def usable_capabilities(told: object) -> JsonObject:
    """Return those of a client's capabilities that servers may make use of."""
    known = members(told)
    found: JsonObject = {
        name: members(known[name]) for name in CLIENT_FEATURES if isinstance(known.get(name), dict)
    }
    if len(orjson.dumps(found)) > MAX_CAPABILITIES_BYTES:
        return {name: {} for name in found}
    return found


def _usable_info(told: object) -> JsonObject:
    known = members(told)
    return {
        name: str(known[name])[:MAX_NAME_CHARACTERS]
        for name in ("name", "version")
        if isinstance(known.get(name), str)
    }


def _session(sealed: str, content: Mapping[str, Any]) -> ClientSession:
    return ClientSession(sealed, content["n"], content["v"], content["c"], content["i"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """The client of one request, as far as a server may care.

    Attributes:
        session: None in the stateless era, and for clients that began none.
        level: Least severe log messages it wants; None when it did not say.
    """

    user: UserContext
    era: Era
    capabilities: Mapping[str, Any]
    info: Mapping[str, Any]
    session: ClientSession | None = None
    level: str | None = None
