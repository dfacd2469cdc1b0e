"""The gateway's own sessions with servers of the handshake's era, shared by the calls that may.

A session is shared by calls with the same server, address, credentials, client capabilities and
log level, so that nobody is served with what another one is allowed or able to do. It is opened
by the first call that needs it, begun again once when the server has forgotten it, and closed
when nobody has used it for a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import orjson
import structlog
from multidict import CIMultiDict

from registry.core.clock import Clock
from registry.core.errands import Errands
from registry.gateway.values import Route

log = structlog.get_logger()

IDLE_SECONDS = 300.0
SWEEP_SECONDS = 30.0
MOST_SESSIONS = 10_000

SessionKey: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...], str, str | None]


class UpstreamSession:
    """One session with a server.

    Attributes:
        id: None when the server keeps none.
        version: The protocol version that was agreed on.
        in_use: Calls that are using it.
    """

    __slots__ = ("credentials", "id", "in_use", "key", "last_used", "route", "version")

    def __init__(
        self, key: SessionKey, route: Route, credentials: CIMultiDict[str], version: str
    ) -> None:
        self.key = key
        self.route = route
        self.credentials = credentials
        self.id: str | None = None
        self.version = version
        self.in_use = 0
        self.last_used = 0.0


Opener: TypeAlias = Callable[[UpstreamSession, Mapping[str, Any], str | None], Awaitable[None]]
"""Shakes hands with the server, with these client capabilities and this log level, and notes
the session's id and version in it."""

Closer: TypeAlias = Callable[[UpstreamSession], Coroutine[Any, Any, None]]


def session_key(
    route: Route,
    credentials: Mapping[str, str],
    capabilities: Mapping[str, Any],
    level: str | None,
) -> SessionKey:
    """Return what calls must have in common to share a session."""
    spoken = orjson.dumps(capabilities, option=orjson.OPT_SORT_KEYS).decode()
    return (route.server_id, route.url, tuple(credentials.items()), spoken, level)


class UpstreamSessions:
    """Sessions by what they are shared by.

    Args:
        opener: Begins a session.
        closer: Ends one; its failure is nobody's.
        errands: Ends sessions in the background.
    """

    def __init__(self, opener: Opener, closer: Closer, errands: Errands, clock: Clock) -> None:
        self._open = opener
        self._close = closer
        self._errands = errands
        self._clock = clock
        self._sessions: dict[SessionKey, UpstreamSession] = {}
        self._opening: dict[SessionKey, asyncio.Task[UpstreamSession]] = {}
        self._is_sweeping = False

    def __len__(self) -> int:
        return len(self._sessions)

    async def acquire(
        self,
        key: SessionKey,
        route: Route,
        credentials: CIMultiDict[str],
        capabilities: Mapping[str, Any],
        level: str | None,
    ) -> UpstreamSession:
        """Return an open session; the caller releases it.

        Raises:
            Refusal: The server did not shake hands.
        """
        session = self._sessions.get(key)
        if session is None:
            opening = self._opening.get(key)
            if opening is None:
                session = UpstreamSession(key, route, credentials, "")
                opening = self._errands.start(self._opened(session, capabilities, level))
                self._opening[key] = opening
            # The first caller may go away; those that wait with it must not lose the session.
            session = await asyncio.shield(opening)
        session.in_use += 1
        return session

    def release(self, session: UpstreamSession) -> None:
        """Note that a call is done with *session*."""
        session.in_use -= 1
        session.last_used = self._clock.monotonic()

    def forget(self, session: UpstreamSession) -> None:
        """Drop a session that the server does not know any more."""
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]

    async def _opened(
        self, session: UpstreamSession, capabilities: Mapping[str, Any], level: str | None
    ) -> UpstreamSession:
        try:
            await self._open(session, capabilities, level)
        finally:
            self._opening.pop(session.key, None)
        session.last_used = self._clock.monotonic()
        self._sessions[session.key] = session
        if len(self._sessions) > MOST_SESSIONS:
            self._evict_one()
        self._sweep_later()
        return session

    def _evict_one(self) -> None:
        idle = [session for session in self._sessions.values() if not session.in_use]
        if idle:
            self._end(min(idle, key=lambda session: session.last_used))

    def _sweep_later(self) -> None:
        # A gateway without sessions has no timer.
        if not self._is_sweeping and self._sessions:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._is_sweeping = False
        oldest = self._clock.monotonic() - IDLE_SECONDS
        for session in list(self._sessions.values()):
            if not session.in_use and session.last_used < oldest:
                self._end(session)
        self._sweep_later()

    def _end(self, session: UpstreamSession) -> None:
        self.forget(session)
        self._errands.soon(self._close(session))

    async def close(self) -> None:
        """End all sessions; what the servers answer does not matter."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(
            *(self._close(session) for session in sessions), return_exceptions=True
        )
