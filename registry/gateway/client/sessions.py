"""The gateway's own sessions with servers of the handshake's era: one for each client session.

A session belongs to one client session; where the client has none, to one person; where the
client names a conversation, to that conversation of theirs. It is never shared between people,
because servers keep state in it: what one remembers there, another must not read.

Workers of one machine share a session of the same owner: the worker that opened it *holds* it,
ends it when it is idle, and reports its id to the others, which *borrow* it. No request moves to
another worker for that. Replicas do not know of each other: each opens its own.
docs/decisions/0024-sessions-of-one-owner.md has the reasons.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import orjson
import structlog
from multidict import CIMultiDict

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.core.json import members
from registry.gateway.errors import AccessEnded, NotServing, Refusal
from registry.gateway.ports import Peers, RouteTable
from registry.gateway.protocol.messages import Message, read_message
from registry.gateway.values import Route
from registry.oauth.errors import AuthorizationRequiredError

log = structlog.get_logger()

SWEEP_SECONDS = 30.0
"""How often idle sessions are looked for; more often where the idle time is short."""

RESOURCE_UPDATED = "notifications/resources/updated"
ROOTS = "roots/list"

MAX_UNREAD = 100
"""Questions that a server may ask while its session begins."""

MAX_BORROWED = 10_000
"""Sessions of other workers that are remembered, 1 kB each."""


@dataclass(frozen=True, slots=True)
class SessionOwner:
    """Whom a session with a server belongs to.

    Attributes:
        principal: The person.
        session: Nonce of their client session; None where the client has none.
        conversation: As the client names it; None where it does not.
        user: Whose access tokens are used; None where the server takes none.
    """

    principal: str
    session: str | None = None
    conversation: str | None = None
    user: UserContext | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SessionKey:
    """What requests must have in common to go over the same session.

    Attributes:
        credentials: The stored headers, without an access token: a renewed one is the same access.
    """

    owner: SessionOwner
    server_id: str
    url: str
    credentials: tuple[tuple[str, str], ...]
    capabilities: str

    @property
    def client_capabilities(self) -> dict[str, Any]:
        """Return what the client can be asked."""
        return dict(orjson.loads(self.capabilities))

    @cached_property
    def digest(self) -> str:
        """Return the name of the key among workers, which tells nothing of the credentials."""
        owner = self.owner
        parts = [
            [owner.principal, owner.session, owner.conversation],
            [self.server_id, self.url, self.capabilities],
            self.credentials,
        ]
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How many sessions one worker holds, and for how long nobody need use one.

    Attributes:
        total: In all.
        per_server: With one server.
        per_user: Of one person.
        idle_seconds: After which an unused one is ended.
    """

    total: int
    per_server: int
    per_user: int
    idle_seconds: float


class SessionCall(Protocol):
    """A call under way in a session."""

    def receive(self, message: Message) -> bool:
        """Receive a message of the session's own stream; return whether it was accepted."""


class ResourceListener(Protocol):
    """Receives changes of resources that were subscribed to in a session."""

    def updated(self, uri: str) -> None:
        """Note that a resource changed."""


class UpstreamSession:
    """One session with a server.

    Attributes:
        id: None when the server keeps none.
        version: The protocol version that was agreed on.
        level: The log level that was last set in it.
        holder: The worker that opened it and ends it.
        opened_at: Monotonic time, the same in all workers of a machine.
        in_use: Calls of this worker that are using it.
        was_used: Whether it was used since that was last reported to its holder.
        has_stream: Whether the server's own stream (GET) is read, by the holder.
        is_new: Whether it was opened here, and no call was made in it.
        reading: What reads it, where that is here.
        calls: Those under way here, the newest last.
        listeners: Those here that hear of resources.
        lost: Set when the session is over.
    """

    __slots__ = (
        "calls",
        "credentials",
        "has_stream",
        "holder",
        "id",
        "in_use",
        "is_new",
        "key",
        "last_used",
        "level",
        "listeners",
        "lost",
        "opened_at",
        "pending_questions",
        "reading",
        "route",
        "version",
        "was_used",
    )

    def __init__(
        self, key: SessionKey, route: Route, credentials: CIMultiDict[str], holder: str
    ) -> None:
        self.key = key
        self.route = route
        self.credentials = credentials
        self.id: str | None = None
        self.version = ""
        self.level: str | None = None
        self.holder = holder
        self.opened_at = 0.0
        self.in_use = 0
        self.last_used = 0.0
        self.was_used = False
        self.has_stream = False
        self.is_new = True
        self.reading: asyncio.Task[None] | None = None
        self.calls: dict[SessionCall, None] = {}
        self.listeners: dict[ResourceListener, None] = {}
        self.pending_questions: list[Message] = []
        self.lost = asyncio.Event()

    def begin_call(self, call: SessionCall) -> None:
        """Deliver the server's messages to *call* from now on, and those that are pending."""
        self.calls[call] = None
        pending_questions, self.pending_questions = self.pending_questions, []
        for message in pending_questions:
            call.receive(message)

    def end_call(self, call: SessionCall) -> None:
        """Deliver no more messages to *call*."""
        self.calls.pop(call, None)

    def take(self, message: Message) -> bool:
        """Deliver a server's message in this worker; return whether there is a receiver."""
        if message.body.get("method") == RESOURCE_UPDATED:
            uri = members(message.body.get("params")).get("uri")
            for listener in tuple(self.listeners):
                listener.updated(str(uri))
            return bool(self.listeners)
        return any(call.receive(message) for call in reversed(tuple(self.calls)))

    def keep(self, message: Message) -> bool:
        """Keep a question for the call that is about to begin; return whether that will be asked.

        A client without a session has no stream to be asked on, but its roots, which no person
        need be asked for, can wait for its next call.
        """
        waits = message.body.get("method") == ROOTS and self.key.owner.session is None
        if self.calls or not (self.in_use or waits) or len(self.pending_questions) >= MAX_UNREAD:
            return False
        self.pending_questions.append(message)
        return True

    def stop_reading(self) -> None:
        """Read the server's own stream no more."""
        reading, self.reading = self.reading, None
        if reading is not None:
            reading.cancel()

    def shared_state(self) -> dict[str, Any]:
        """Return what another worker needs to use the session."""
        return {
            "id": self.id,
            "version": self.version,
            "level": self.level,
            "holder": self.holder,
            "opened_at": self.opened_at,
            "has_stream": self.has_stream,
        }

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Become the session that another worker reported."""
        self.id, self.version, self.level = state["id"], state["version"], state["level"]
        self.holder, self.opened_at = state["holder"], state["opened_at"]
        self.has_stream = state["has_stream"]
        self.is_new = False


Opener: TypeAlias = Callable[[UpstreamSession, Mapping[str, Any]], Awaitable[None]]
"""Initializes the session with these client capabilities, and sets its id and version."""

Closer: TypeAlias = Callable[[UpstreamSession], Coroutine[Any, Any, None]]
Reader: TypeAlias = Callable[[UpstreamSession], Awaitable[None]]
"""Begins to read the stream on which the server speaks by itself; returns once it is open."""

TAKEN = b"taken"
AUTHORIZATION = "Authorization"


def session_key(
    route: Route,
    credentials: Mapping[str, str],
    capabilities: Mapping[str, Any],
    owner: SessionOwner,
) -> SessionKey:
    """Return what requests must have in common to go over the same session."""
    spoken = orjson.dumps(capabilities, option=orjson.OPT_SORT_KEYS).decode()
    return SessionKey(
        owner, route.server_id, route.url, lasting_headers(route, credentials), spoken
    )


def lasting_headers(route: Route, credentials: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the headers that stay the same when an access token is renewed."""
    if route.oauth is None:
        return tuple(credentials.items())
    return tuple(one for one in credentials.items() if one[0] != AUTHORIZATION)


class UpstreamSessions:
    """Sessions by what they are used for.

    Args:
        opener: Begins a session.
        closer: Ends one; its failure is nobody's.
        background_tasks: Ends sessions in the background.
        peers: The other workers.
        limits: How many there may be.
        routes: The servers that can be called now; sessions with others end.
    """

    def __init__(
        self,
        opener: Opener,
        closer: Closer,
        background_tasks: BackgroundTasks,
        clock: Clock,
        peers: Peers,
        limits: SessionLimits,
        routes: RouteTable,
    ) -> None:
        self._open = opener
        self._close = closer
        self._background_tasks = background_tasks
        self._clock = clock
        self._peers = peers
        self._limits = limits
        self._routes = routes
        self._sweep_seconds = min(SWEEP_SECONDS, limits.idle_seconds / 2)
        self._sessions: dict[SessionKey, UpstreamSession] = {}
        self._opening: dict[SessionKey, tuple[UpstreamSession, asyncio.Task[None]]] = {}
        self._by_digest: dict[str, SessionKey] = {}
        self._by_client: dict[str, set[SessionKey]] = {}
        # Of those held and those being opened here.
        self._held = 0
        self._of_server: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()
        self._is_sweeping = False
        self._reader: Reader | None = None

    def read_with(self, reader: Reader) -> None:
        """Have *reader* read the streams that servers have for what they say by themselves."""
        self._reader = reader

    async def begin_reading(self, session: UpstreamSession) -> None:
        """Read the server's own stream of a session that has just begun."""
        is_shared = session.id is None and session.key.owner.principal
        # Without an id it would be everybody's stream.
        if self._reader is not None and not is_shared:
            await self._reader(session)

    def __len__(self) -> int:
        return len(self._sessions)

    async def acquire(
        self,
        key: SessionKey,
        route: Route,
        credentials: CIMultiDict[str],
        capabilities: Mapping[str, Any],
    ) -> UpstreamSession:
        """Return an open session; the caller releases it.

        Raises:
            NotServing: There are as many as may be, and all are in use.
            Refusal: The server refused to initialize.
        """
        session = self._sessions.get(key)
        if session is not None:
            session.in_use += 1
            session.was_used = True
            session.credentials = credentials
            return session
        opening = self._opening.get(key)
        if opening is None:
            session = UpstreamSession(key, route, credentials, self._peers.own)
            task = self._background_tasks.start(self._opened(session, capabilities))
            opening = self._opening[key] = (session, task)
        session, task = opening
        # In use from now on: before its first call goes on, it is not to be ended for another.
        session.in_use += 1
        try:
            # The first caller may go away; those that wait with it must not lose the session.
            await asyncio.shield(task)
        except BaseException:
            session.in_use -= 1
            raise
        return session

    def release(self, session: UpstreamSession) -> None:
        """Note that a call is done with *session*."""
        session.in_use -= 1
        session.last_used = self._clock.monotonic()

    async def newest(
        self, route: Route, owner: SessionOwner, credentials: CIMultiDict[str]
    ) -> CIMultiDict[str]:
        """Return *credentials* with the access token that their owner has now.

        Raises:
            AccessEnded: They have none any more.
            NotServing: There is none now.
        """
        if route.oauth is None or owner.user is None:
            return credentials
        try:
            current = (await self._routes.user_headers(owner.user, route)).headers
        except AuthorizationRequiredError:
            raise AccessEnded(route.server_name) from None
        except (RegistryError, DatabaseUnavailable):
            raise NotServing(
                f"The access token for {route.server_name} cannot be read or renewed now."
            ) from None
        if current[AUTHORIZATION] == credentials.get(AUTHORIZATION):
            return credentials
        credentials = credentials.copy()
        credentials[AUTHORIZATION] = current[AUTHORIZATION]
        return credentials

    async def refresh(self, session: UpstreamSession) -> None:
        """Have a session use the access token that its owner has now; drop it without one.

        Raises:
            AccessEnded: They have none any more.
            NotServing: There is none now.
        """
        try:
            session.credentials = await self.newest(
                session.route, session.key.owner, session.credentials
            )
        except AccessEnded:
            await self.forget(session)
            raise

    async def forget(self, session: UpstreamSession) -> None:
        """Drop a session that the server does not know any more, in all workers."""
        self._drop(session)
        await self._broadcast("lost", session.key, id=session.id)

    def end_of(self, nonce: str) -> None:
        """End the sessions of a client session that has ended."""
        for key in tuple(self._by_client.get(nonce, ())):
            session = self._sessions.get(key)
            if session is not None:
                self._end(session)

    def of_client(self, nonce: str) -> list[UpstreamSession]:
        """Return the sessions of a client session that this worker holds."""
        found = (self._sessions.get(key) for key in self._by_client.get(nonce, ()))
        return [one for one in found if one is not None and one.holder == self._peers.own]

    async def deliver(self, session: UpstreamSession, message: Message) -> bool:
        """Deliver a server's message to the call or the listeners it concerns, in any worker.

        Returns:
            Whether there is a receiver.
        """
        is_taken = session.take(message)
        if is_taken and message.body.get("method") != RESOURCE_UPDATED:
            return True
        report = {
            "kind": "upstream_session",
            "event": "message",
            "digest": session.key.digest,
            "raw": message.raw.decode(),
        }
        return TAKEN in await self._peers.broadcast(orjson.dumps(report)) or is_taken

    def receive(self, received: Mapping[str, Any]) -> bytes:
        """Handle another worker's message about a session, and reply."""
        if received["event"] == "used":
            return orjson.dumps([self._is_kept(digest) for digest in received["digests"]])
        key = self._by_digest.get(received["digest"])
        session = None if key is None else self._sessions.get(key)
        if session is None:
            return b""
        match received["event"]:
            case "message":
                message = read_message(received["raw"].encode(), "")
                return TAKEN if message is not None and session.take(message) else b""
            case "opened" if _is_older(received["session"], session.shared_state()):
                # Opened in two workers at once: both keep the older one.
                if session.holder == self._peers.own:
                    self._replace(session, received["session"])
                else:
                    session.adopt(received["session"])
            case "lost" if session.id == received["id"]:
                self._drop(session)
                return b""
            case _:
                pass
        return orjson.dumps(session.shared_state())

    async def _opened(self, session: UpstreamSession, capabilities: Mapping[str, Any]) -> None:
        key = session.key
        try:
            found = await self._broadcast("find", key)
            if found is not None:
                session.adopt(found)
                self._make_room_for_borrowed()
            else:
                self._reserve(key)
                try:
                    await self._open(session, capabilities)
                except BaseException:
                    self._unreserve(key)
                    session.stop_reading()
                    raise
                session.opened_at = self._clock.monotonic()
            session.last_used = self._clock.monotonic()
            self._enter(session)
            if found is None:
                await self._use_older(session)
        finally:
            self._opening.pop(key, None)
        self._sweep_later()

    async def _use_older(self, session: UpstreamSession) -> None:
        """Use the older one if another worker opened a session at the same time."""
        older = await self._broadcast("opened", session.key, session=session.shared_state())
        if (
            older is not None
            and session.holder == self._peers.own
            and _is_older(older, session.shared_state())
        ):
            self._replace(session, older)

    def _replace(self, session: UpstreamSession, older: Mapping[str, Any]) -> None:
        """End what was opened here, and use what another worker opened before."""
        former = UpstreamSession(session.key, session.route, session.credentials, session.holder)
        former.id, former.version = session.id, session.version
        self._background_tasks.soon(self._close(former))
        session.stop_reading()
        self._unreserve(session.key)
        session.adopt(older)

    def _enter(self, session: UpstreamSession) -> None:
        key = session.key
        self._sessions[key] = session
        self._by_digest[key.digest] = key
        if key.owner.session is not None:
            self._by_client.setdefault(key.owner.session, set()).add(key)

    def _drop(self, session: UpstreamSession) -> bool:
        """Remove a session from the table; return whether it was there."""
        key = session.key
        if self._sessions.get(key) is not session:
            return False
        del self._sessions[key]
        self._by_digest.pop(key.digest, None)
        if key.owner.session is not None:
            keys = self._by_client[key.owner.session]
            keys.discard(key)
            if not keys:
                del self._by_client[key.owner.session]
        if session.holder == self._peers.own:
            self._unreserve(session.key)
        session.stop_reading()
        session.lost.set()
        return True

    def _reserve(self, key: SessionKey) -> None:
        """Make room for one more session; of those in use none is ended for it.

        Raises:
            NotServing: There is none.
        """
        limits = self._limits
        user, server = key.owner.principal, key.server_id
        # Without a person: the gateway's own, one for each server at most.
        if (
            user
            and self._of_user[user] >= limits.per_user
            and not self._evicted(lambda one: one.owner.principal == user)
        ):
            raise NotServing("You have too many sessions with servers in use; end some first.")
        if self._of_server[server] >= limits.per_server and not self._evicted(
            lambda one: one.server_id == server
        ):
            raise NotServing("Too many sessions with this server are in use; try again later.")
        if self._held >= limits.total and not self._evicted(lambda _: True):
            raise NotServing("Too many sessions with servers are in use; try again later.")
        self._count(key)

    def _count(self, key: SessionKey) -> None:
        self._held += 1
        self._of_user[key.owner.principal] += 1
        self._of_server[key.server_id] += 1

    def _unreserve(self, key: SessionKey) -> None:
        self._held -= 1
        for counts, name in (
            (self._of_user, key.owner.principal),
            (self._of_server, key.server_id),
        ):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]

    def _evicted(self, is_candidate: Callable[[SessionKey], bool]) -> bool:
        """End the session that nobody has used for longest; return whether there was one."""
        own = self._peers.own
        idle = [
            session
            for session in self._sessions.values()
            if not session.in_use and session.holder == own and is_candidate(session.key)
        ]
        if not idle:
            return False
        self._end(min(idle, key=lambda session: session.last_used))
        return True

    def _make_room_for_borrowed(self) -> None:
        own = self._peers.own
        if len(self._sessions) - self._held < MAX_BORROWED:
            return
        idle = [one for one in self._sessions.values() if not one.in_use and one.holder != own]
        if idle:
            self._drop(min(idle, key=lambda session: session.last_used))

    def _sweep_later(self) -> None:
        # A gateway without sessions has no timer.
        if not self._is_sweeping and self._sessions:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(self._sweep_seconds, self._sweep)

    def _sweep(self) -> None:
        self._is_sweeping = False
        own = self._peers.own
        oldest = self._clock.monotonic() - self._limits.idle_seconds
        used: dict[str, list[UpstreamSession]] = {}
        for session in list(self._sessions.values()):
            if session.holder != own and (session.was_used or session.in_use):
                session.was_used = False
                used.setdefault(session.holder, []).append(session)
            elif not session.in_use and (
                session.last_used < oldest or not self._is_current(session.route)
            ):
                self._end(session)
            elif session.holder == own and session.key.owner.user is not None:
                self._background_tasks.soon(self._end_without_access(session))
        for holder, sessions in used.items():
            self._background_tasks.soon(self._say_used(holder, sessions))
        self._sweep_later()

    async def _end_without_access(self, session: UpstreamSession) -> None:
        with suppress(Refusal):
            await self.refresh(session)

    async def _say_used(self, holder: str, sessions: list[UpstreamSession]) -> None:
        """Keep what is borrowed from ending; hold it from now on if its holder is gone."""
        message = {
            "kind": "upstream_session",
            "event": "used",
            "digests": [session.key.digest for session in sessions],
        }
        reply = await self._peers.send(holder, orjson.dumps(message))
        kept = [None] * len(sessions) if reply is None else orjson.loads(reply)
        for session, is_kept in zip(sessions, kept, strict=True):
            if self._sessions.get(session.key) is not session or session.holder != holder:
                continue
            if is_kept is None:
                # Its holder died without a word, so that the server still knows the session.
                session.holder = self._peers.own
                self._count(session.key)
                if self._reader is not None and session.has_stream:
                    await self._reader(session)
            elif not is_kept and not session.in_use:
                self._drop(session)

    def _is_current(self, route: Route) -> bool:
        """Whether a server is still to be called where *route* says."""
        current = self._routes.route(route.slug, route.facts.tenant_id)
        return current is not None and (current.server_id, current.url) == (
            route.server_id,
            route.url,
        )

    def _is_kept(self, digest: str) -> bool:
        """Note that another worker uses a session; return whether it exists."""
        key = self._by_digest.get(digest)
        session = None if key is None else self._sessions.get(key)
        if session is None:
            return False
        session.last_used = self._clock.monotonic()
        return True

    def _end(self, session: UpstreamSession) -> None:
        if self._drop(session) and session.holder == self._peers.own:
            self._background_tasks.soon(self._close(session))

    async def _broadcast(
        self, event: str, key: SessionKey, **facts: object
    ) -> Mapping[str, Any] | None:
        """Report to the other workers, and return the oldest session that they know of."""
        message = {"kind": "upstream_session", "event": event, "digest": key.digest, **facts}
        replies = await self._peers.broadcast(orjson.dumps(message))
        known: list[dict[str, Any]] = [orjson.loads(reply) for reply in replies if reply]
        return min(known, key=lambda one: (one["opened_at"], one["holder"]), default=None)

    def stop_reading(self) -> None:
        """Read no server's own stream any more."""
        for session in self._sessions.values():
            session.stop_reading()

    async def close(self) -> None:
        """End all sessions that are held here; what the servers answer does not matter."""
        own = self._peers.own
        sessions = [session for session in self._sessions.values() if session.holder == own]
        for session in list(self._sessions.values()):
            self._drop(session)
        await asyncio.gather(
            *(self._close(session) for session in sessions), return_exceptions=True
        )


def _is_older(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether *one* of two sessions of the same key is the one to keep."""
    return bool((one["opened_at"], one["holder"]) < (other["opened_at"], other["holder"]))
