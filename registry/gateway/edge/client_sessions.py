"""Client sessions with the gateway itself, contained in their ids.

Where the gateway is the server of a handshake-era client, the session id holds what was agreed at
`initialize`, sealed for its owner: any worker and replica can serve it, and none stores it.
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
"""Maximum number of cached sessions, 0.8 kB each; unsealing one takes 3 us."""

OWN_MARK = "\x01"
"""Prefix of the sealed text in ids of the gateway's own sessions; no upstream's id has it."""

CLIENT_FEATURES = ("sampling", "elicitation", "roots")
"""Client capabilities that servers may use."""

MAX_CAPABILITIES_BYTES = 1024
MAX_NAME_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class ClientSession:
    """What was agreed at the beginning of a session.

    Attributes:
        id: The id that the client knows.
        nonce: Identifies the session; may be shown to other workers.
        version: The protocol version.
        capabilities: The client's capabilities that servers may use.
        info: Name and version of the client.
    """

    id: str
    nonce: str
    version: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


class ClientSessions:
    """Creates and reads session ids.

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
            user: The owner.
            scope_id: The session's server: a server's id, or the aggregate server's.
            version: The version agreed on.
            params: The parameters of the client's `initialize`.
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
        """Return the session with the id *sealed*.

        Raises:
            SessionUnknown: It is not a session of this user with this server.
        """
        # Unsealed each time, because it may have expired since; the seal has a cache too.
        text = self._seal.open(sealed, principal=user.principal, server_id=scope_id)
        key = (sealed, user.principal, scope_id)
        session = self._read.get(key)
        if session is None:
            if not text.startswith(OWN_MARK):
                # The server at this path had another era when the session began.
                raise SessionUnknown
            session = self._read[key] = _session(sealed, orjson.loads(text.removeprefix(OWN_MARK)))
        return session

    def is_own(self, user: UserContext, scope_id: str, sealed: str) -> bool:
        """Whether an id is of a session with the gateway itself, not with the server.

        Raises:
            SessionUnknown: It is neither, or not of this user with this server.
        """
        text = self._seal.open(sealed, principal=user.principal, server_id=scope_id)
        return text.startswith(OWN_MARK)

    def end(self, session: ClientSession) -> str:
        """Reject *session* from now on; return the argument for `end_named` in other workers."""
        return self._seal.end(session.id)

    def end_named(self, name: str) -> None:
        """Apply the `end` of the worker that returned *name*."""
        self._seal.end_named(name)


def usable_capabilities(sent: object) -> JsonObject:
    """Return those of a client's capabilities that servers may use."""
    known = members(sent)
    found: JsonObject = {
        name: members(known[name]) for name in CLIENT_FEATURES if isinstance(known.get(name), dict)
    }
    if len(orjson.dumps(found)) > MAX_CAPABILITIES_BYTES:
        return {name: {} for name in found}
    return found


def client_name(info: Mapping[str, Any]) -> str | None:
    """Return the name that a client gives itself; None without one."""
    name = info.get("name")
    return name[:MAX_NAME_CHARACTERS] if isinstance(name, str) and name else None


def _usable_info(sent: object) -> JsonObject:
    known = members(sent)
    return {
        name: str(known[name])[:MAX_NAME_CHARACTERS]
        for name in ("name", "version")
        if isinstance(known.get(name), str)
    }


def _session(sealed: str, content: Mapping[str, Any]) -> ClientSession:
    return ClientSession(sealed, content["n"], content["v"], content["c"], content["i"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """The client of one request, as far as it concerns a server.

    Attributes:
        session: None in the stateless era, and for clients without a session.
        level: Minimum level of log messages; None if the client set none.
    """

    user: UserContext
    era: Era
    capabilities: Mapping[str, Any]
    info: Mapping[str, Any]
    session: ClientSession | None = None
    level: str | None = None
