"""Notification streams: long-lived streams on which the gateway, as the server, notifies clients.

All streams of this worker share two tasks: one follows changes of the gateway's view, one looks
every few seconds for changes without an event: expired tokens, streams without traffic, clients
that do not read. A stream itself costs its connection and the task that waits for its client to
disconnect.

A stream that opens in a session ends the previous one, in whichever worker: each message is sent
on one of them, and a client that opens another has usually lost the former.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import orjson
import structlog

from packages.database.errors import DatabaseUnavailable
from registry.access.quarantine.values import Quarantine
from registry.auth.identity import Scope, UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.drain import Drain
from registry.core.errors import RegistryError
from registry.core.json import JsonObject
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.client_sessions import ClientContext, client_name
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.session_states import (
    MAX_SUBSCRIPTIONS,
    MAX_URI_CHARACTERS,
    SessionStates,
)
from registry.gateway.errors import (
    InvalidParams,
    InvalidRequest,
    NotAcceptable,
    NotServing,
    Quarantined,
    Refusal,
    ServerUnknown,
)
from registry.gateway.notifications.attachments import Attachments, Wanted
from registry.gateway.notifications.buffer import NotificationBuffer
from registry.gateway.notifications.feed import Feed
from registry.gateway.notifications.feeds import FeedKey, Feeds
from registry.gateway.notifications.stream_limits import ClientStreamLimit
from registry.gateway.ports import Peers, RouteTable
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.headers import CONVERSATION_HEADER
from registry.gateway.transport.call_watch import CallWatch, ClientGone
from registry.gateway.transport.early_stream import STREAM_HEADERS
from registry.gateway.transport.forwarder import EVENT_STREAM, InterjectedStream
from registry.gateway.values import Route, may_tell_of_lists, may_tell_of_resources
from registry.gateway.view.catalogue import Catalogue
from registry.gateway.view.differences import (
    ALL_LISTS,
    NOTHING,
    PROMPTS,
    RESOURCES,
    TOOLS,
    RouteChange,
    changed_lists,
    changed_views,
    differences,
    seen_changes,
)
from registry.gateway.view.offering import CombinedOffering, Offering, SingleOffering
from registry.gateway.view.toolsets import ToolsetOffering
from registry.servers.values import Era, Transport

log = structlog.get_logger()

TICK_SECONDS = 5.0
"""Interval of the checks for changes without an event; a stream may outlive its token by this."""

QUIET_SECONDS = 14.0
"""A stream without traffic for this long gets a comment at the next check: every 15 to 20 s."""

UNREAD_SECONDS = 30.0
"""How long a client may read nothing before its stream is closed."""

SUBSCRIBE_SECONDS = 1.5
"""How long a subscription waits for the server; less than the wait for peers."""

LARGEST_SHARE = 0.25
LONGEST_REST_SECONDS = 0.5
"""Comparing views takes at most this share of the time; several changes are compared as one."""

LOOKED_UP_AT_ONCE = 20
"""Callers that are looked up in the database concurrently."""

CLIENTS_AT_A_TIME = 100
"""Clients whose views are compared before other tasks get a turn."""

LISTS: Mapping[str, int] = {
    "toolsListChanged": TOOLS,
    "promptsListChanged": PROMPTS,
    "resourcesListChanged": RESOURCES,
}
RESOURCE_SUBSCRIPTIONS = "resourceSubscriptions"

SAID = b"said"


class Stream:
    """One open stream.

    Args:
        era: The era of its client.
        route: The server it is about; None for the aggregate server.
        uris: The resources that it is notified of, by their public URIs.
        toolset: What toolsets leave of the path; None if none narrows it.
        client_name: The name of its client.
        nonce: The nonce of its session; None in the stateless era.
        capabilities: The capabilities of its client.
        opened_at: Monotonic time, the same in all workers of a machine.

    Attributes:
        attachments: The feeds that it listens to; None before there are any.
        must_attach: Whether the feeds must be determined again.
        may_attach_later: Whether the feeds can change without an event.
        active_at: When something was last sent, or started to be sent.
        is_sending: Whether the client has not taken all that was sent.
    """

    __slots__ = (
        "active_at",
        "attachments",
        "buffer",
        "capabilities",
        "client_name",
        "era",
        "exchange",
        "is_sending",
        "may_attach_later",
        "must_attach",
        "nonce",
        "opened_at",
        "route",
        "toolset",
        "uris",
        "watch",
    )

    def __init__(  # noqa: PLR0913 - one keyword for each fact
        self,
        exchange: GatewayRequest,
        buffer: NotificationBuffer,
        watch: CallWatch,
        *,
        era: Era,
        route: Route | None,
        toolset: ToolsetOffering | None,
        client_name: str | None,
        uris: Sequence[str],
        nonce: str | None,
        capabilities: Mapping[str, Any],
        opened_at: float,
    ) -> None:
        self.exchange = exchange
        self.buffer = buffer
        self.watch = watch
        self.era = era
        self.route = route
        self.toolset = toolset
        self.client_name = client_name
        self.uris = uris
        self.nonce = nonce
        self.capabilities = capabilities
        self.opened_at = self.active_at = opened_at
        self.attachments: Attachments | None = None
        self.must_attach = bool(uris)
        self.may_attach_later = False
        self.is_sending = False

    def attach_again(self) -> None:
        """Determine the feeds again, if there are any."""
        if self.uris:
            self.must_attach = True
            self.buffer.wake()


class _Client:
    """All streams that were opened with the same Authorization header."""

    __slots__ = ("streams", "user")

    def __init__(self, user: UserContext) -> None:
        self.user = user
        self.streams: dict[Stream, None] = {}


class NotificationStreams:
    """Serves the notification streams of clients whose server is the gateway itself.

    Args:
        states: What clients subscribed to in their sessions.
        feeds: Report changes of resources.
        room: Limits the number of streams.
        drain: Signals that all streams must end.
        max_watched: Maximum number of servers that are listened to for list changes.
    """

    def __init__(  # noqa: PLR0913 - collaborators, by keyword
        self,
        admission: Admission,
        routes: RouteTable,
        states: SessionStates,
        feeds: Feeds,
        *,
        room: ClientStreamLimit,
        latency_watcher: LatencyWatcher,
        peers: Peers,
        background_tasks: BackgroundTasks,
        clock: Clock,
        drain: Drain,
        max_watched: int,
    ) -> None:
        self._admission = admission
        self._routes = routes
        self._states = states
        self._feeds = feeds
        self._room = room
        self._latency_watcher = latency_watcher
        self._peers = peers
        self._background_tasks = background_tasks
        self._clock = clock
        self._drain = drain
        self._clients: dict[str, _Client] = {}
        self._max_watched = max_watched
        # Number of open streams by the server's id; None for the aggregate server.
        self._about: Counter[str | None] = Counter()
        self._sessions: dict[str, Stream] = {}
        self._relayed: dict[str, InterjectedStream] = {}
        self._seen: Catalogue | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def stream(
        self, exchange: GatewayRequest, caller: ClientContext, offering: Offering
    ) -> None:
        """Serve the GET stream of a client of the handshake's era.

        Raises:
            Refusal: The stream cannot be opened, or its caller has lost the right to it.
            ClientGone: The client disconnected.
        """
        accept = exchange.headers.get("accept")
        if accept and EVENT_STREAM not in accept and "*/*" not in accept:
            raise NotAcceptable
        if caller.session is None:
            raise InvalidRequest("A stream needs a session; send initialize first.")
        nonce = caller.session.nonce
        uris = self._states.subscriptions(nonce)
        buffer = NotificationBuffer(ALL_LISTS)
        async with self._opened(exchange, caller, offering, buffer, uris, nonce) as stream:
            await self._take_over(stream, nonce)
            await self._speak(stream)

    async def listen(
        self,
        exchange: GatewayRequest,
        caller: ClientContext,
        offering: Offering,
        envelope: Envelope,
    ) -> None:
        """Serve `subscriptions/listen` of a client of the stateless era.

        Raises:
            Refusal: The stream cannot be opened, or its caller has lost the right to it.
            ClientGone: The client disconnected.
        """
        honoured = _honoured(offering, envelope.params.get("notifications"))
        uris = honoured.uris
        buffer = NotificationBuffer(honoured.lists, exchange.request_id)
        async with self._opened(exchange, caller, offering, buffer, uris, None) as stream:
            owners = (offering.resource(uri) for uri in uris)
            for route in {one.route.server_id: one.route for one in owners if one}.values():
                self._admission.note_use(exchange, caller.user, route)
            if uris:
                # Whatever is acknowledged is sent from then on.
                stream.must_attach = False
                await _until_subscribed(await self._attach(stream))
            await self._send(stream, buffer.acknowledgement(honoured.members()))
            await self._speak(stream)

    async def session_changed(self, nonce: str) -> None:
        """Apply the subscriptions of a session; its servers know soon after this returns."""
        stream = self._sessions.get(nonce)
        if stream is not None:
            stream.uris = self._states.subscriptions(nonce)
            await _until_subscribed(await self._attach(stream))

    async def say(self, nonce: str, raw: bytes) -> bool:
        """Send a server's message on the stream of a session, in whichever worker that is.

        Returns:
            Whether there is a stream.
        """
        if self.say_here(nonce, raw):
            return True
        message = {"kind": "say", "session": nonce, "raw": raw.decode()}
        return SAID in await self._peers.broadcast(orjson.dumps(message))

    def say_here(self, nonce: str, raw: bytes) -> bool:
        """Send a server's message on the stream of a session, if the stream is in this worker."""
        stream = self._sessions.get(nonce)
        if stream is not None:
            return stream.buffer.say(raw)
        relayed = self._relayed.get(nonce)
        if relayed is None:
            return False
        relayed.say(raw)
        self._background_tasks.soon(relayed.flush())
        return True

    @contextmanager
    def relaying(self, name: str, stream: InterjectedStream) -> Iterator[None]:
        """Let `say` reach a session that a server keeps, on the server's own stream.

        Args:
            name: Of the session, in place of a nonce.
            stream: The stream; a newer one of the session takes its place.
        """
        self._relayed[name] = stream
        try:
            yield
        finally:
            if self._relayed.get(name) is stream:
                del self._relayed[name]

    def session_ended(self, nonce: str) -> None:
        """End the stream of a session that has ended."""
        stream = self._sessions.get(nonce)
        if stream is not None:
            stream.buffer.close()

    def end_quarantined(self, _added: Sequence[Quarantine]) -> None:
        """End the streams of callers and applications that are in quarantine by now."""
        for client in tuple(self._clients.values()):
            for stream in tuple(client.streams):
                try:
                    self._admission.require_free(client.user)
                    self._admission.require_client(stream.client_name)
                except Quarantined as refusal:
                    stream.watch.end(refusal)

    def superseded(self, nonce: str, opened_at: float) -> None:
        """End the stream of a session that has a newer one in another worker."""
        stream = self._sessions.get(nonce)
        if stream is not None and stream.opened_at < opened_at:
            stream.buffer.close()

    @asynccontextmanager
    async def _opened(
        self,
        exchange: GatewayRequest,
        caller: ClientContext,
        offering: Offering,
        buffer: NotificationBuffer,
        uris: Sequence[str],
        nonce: str | None,
    ) -> AsyncIterator[Stream]:
        if self._drain.has_begun:
            raise NotServing("The gateway is shutting down; try again.")
        client = exchange.client
        with (
            self._room.hold(caller.user.principal),
            CallWatch(self._latency_watcher, client.receive, None) as watch,
        ):
            stream = Stream(
                exchange,
                buffer,
                watch,
                era=caller.era,
                route=offering.only,
                toolset=offering if isinstance(offering, ToolsetOffering) else None,
                client_name=client_name(caller.info),
                uris=uris,
                nonce=nonce,
                capabilities=caller.capabilities,
                opened_at=self._clock.monotonic(),
            )
            self._enter(stream, caller.user)
            try:
                await client.start(200, list(STREAM_HEADERS), is_event_stream=True)
                # ASGI servers may hold the head back until the first part of the body.
                await self._send(stream, b"")
                yield stream
                await client.send({"type": "http.response.body", "body": buffer.final_message()})
            finally:
                self._leave(stream)

    def _enter(self, stream: Stream, user: UserContext) -> None:
        if not self._clients:
            self._seen = self._routes.catalogue
            self._tasks = [
                self._background_tasks.start(self._follow()),
                self._background_tasks.start(self._look_after()),
            ]
        key = _key(stream)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client(user)
        client.streams[stream] = None
        self._about[_about(stream)] += 1
        if self._about[_about(stream)] == 1:
            self._watch()
        if stream.nonce is not None:
            former = self._sessions.get(stream.nonce)
            self._sessions[stream.nonce] = stream
            if former is not None:
                former.buffer.close()

    def _leave(self, stream: Stream) -> None:
        key = _key(stream)
        client = self._clients[key]
        del client.streams[stream]
        if not client.streams:
            del self._clients[key]
        if stream.nonce is not None and self._sessions.get(stream.nonce) is stream:
            del self._sessions[stream.nonce]
        if stream.attachments is not None:
            stream.attachments.close()
        self._about[_about(stream)] -= 1
        if not self._about[_about(stream)]:
            del self._about[_about(stream)]
            self._watch()
        if not self._clients:
            self._seen = None
            for task in self._tasks:
                task.cancel()

    def _watch(self) -> None:
        """Listen to all servers whose list changes concern a stream of this worker."""
        all_routes = (member.route for member in self._routes.catalogue.by_server.values())
        may_be = (
            route
            for route in all_routes
            if (None in self._about or route.server_id in self._about) and _can_be_watched(route)
        )
        self._feeds.watch({route.server_id: route for route in islice(may_be, self._max_watched)})

    async def _take_over(self, stream: Stream, nonce: str) -> None:
        """Make other workers end an older stream, and merge their state of the session."""
        message = {"kind": "standing", "session": nonce, "opened_at": stream.opened_at}
        for reply in await self._peers.broadcast(orjson.dumps(message)):
            self._states.merge(nonce, orjson.loads(reply))
        stream.uris = self._states.subscriptions(nonce)
        stream.attach_again()

    async def _speak(self, stream: Stream) -> None:
        """Send what is pending, until the stream ends."""
        buffer = stream.buffer
        while True:
            if stream.must_attach:
                stream.must_attach = False
                await self._attach(stream)
            text = buffer.take()
            if text:
                await self._send(stream, text)
            elif buffer.is_overrun:
                raise ClientGone
            elif buffer.is_closed:
                return
            elif not stream.must_attach:
                await buffer.wait()

    async def _send(self, stream: Stream, text: bytes) -> None:
        stream.is_sending = True
        stream.active_at = self._clock.monotonic()
        await stream.exchange.client.send(
            {"type": "http.response.body", "body": text, "more_body": True}
        )
        stream.is_sending = False

    async def _attach(self, stream: Stream) -> list[Feed]:
        """Listen to the servers of the stream's resources, and to no others."""
        attachments = stream.attachments
        if attachments is None:
            attachments = stream.attachments = Attachments(self._feeds, stream.buffer.updated)
        async with attachments.lock:
            attachments.replace(await self._wanted(stream))
        return attachments.feeds

    async def _wanted(self, stream: Stream) -> dict[FeedKey, Wanted]:
        stream.may_attach_later = False
        client = self._clients.get(_key(stream))
        if client is None or not stream.uris or stream.toolset is not None:
            return {}
        user = client.user
        offering: Offering
        if stream.route is None:
            offering = CombinedOffering(self._admission.view(user))
        else:
            offering = SingleOffering(stream.route)
        by_server: dict[str, Wanted | None] = {}
        for uri in stream.uris:
            owned = offering.resource(uri)
            if owned is None or not may_tell_of_resources(owned.route):
                continue
            route = owned.route
            if route.server_id not in by_server:
                by_server[route.server_id] = await self._wanted_of(stream, user, route)
            wanted = by_server[route.server_id]
            if wanted is not None:
                wanted.add(owned.key, uri)
        return {one.feed_key: one for one in by_server.values() if one}

    async def _wanted_of(self, stream: Stream, user: UserContext, route: Route) -> Wanted | None:
        # There is no event when a user's own credentials for a server change.
        stream.may_attach_later = stream.may_attach_later or route.per_user
        try:
            credentials = (await self._admission.credentials(route, user)).headers
        except (Refusal, RegistryError, DatabaseUnavailable):
            stream.may_attach_later = True
            return None
        owner = SessionOwner(
            user.principal,
            stream.nonce,
            stream.exchange.headers.get(CONVERSATION_HEADER),
            None if route.oauth is None else user,
        )
        return Wanted(route, credentials, owner, stream.capabilities)

    async def _look_after(self) -> None:
        """Check every few seconds for changes without an event; end with the process."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._drain.wait()
                    for stream in self._streams():
                        stream.buffer.close()
                    return
            now = self._clock.monotonic()
            for stream in self._streams():
                if not stream.is_sending:
                    if now - stream.active_at > QUIET_SECONDS:
                        stream.buffer.keep_alive()
                elif now - stream.active_at > UNREAD_SECONDS:
                    stream.watch.end(ClientGone())
                if stream.may_attach_later:
                    stream.attach_again()

    async def _follow(self) -> None:
        """Follow changes of the view, and the expiry of tokens."""
        seen = -1
        while True:
            has_changed = False
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    seen = await self._routes.changed(seen)
                    has_changed = True
            began_at = self._clock.monotonic()
            try:
                await self._check(has_changed=has_changed)
            except Exception:
                # One caller's unusual data must not leave all others with an old view.
                log.exception("streams_check_failed")
            spent = self._clock.monotonic() - began_at
            await self._clock.sleep(min(spent / LARGEST_SHARE, LONGEST_REST_SECONDS))

    async def _check(self, *, has_changed: bool) -> None:
        if not self._routes.is_fresh():
            for stream in self._streams():
                stream.watch.end(
                    NotServing("The gateway has lost its database connection; try again.")
                )
            return
        if has_changed:
            await self._compare()
            self._watch()
        else:
            # Access entries of a toolset may have expired, which is no event.
            for client in tuple(self._clients.values()):
                for stream in tuple(client.streams):
                    if stream.toolset is not None:
                        self._compare_all(stream, client.user, NOTHING)
        doubtful = [
            client
            for key, client in self._clients.items()
            if self._is_doubtful(key, client.user, has_changed=has_changed)
        ]
        for start in range(0, len(doubtful), LOOKED_UP_AT_ONCE):
            some = doubtful[start : start + LOOKED_UP_AT_ONCE]
            await asyncio.gather(*(self._admit_again(client) for client in some))

    def _is_doubtful(self, key: str, former: UserContext, *, has_changed: bool) -> bool:
        user = self._admission.remembered(key)
        if user is not None:
            return user is not former and user != former
        # A user does not change without an event, but a token can expire without one.
        return has_changed or not self._admission.holds(key)

    async def _compare(self) -> None:
        """Notify each client of the changes to what it sees."""
        catalogue = self._routes.catalogue
        former, self._seen = self._seen, catalogue
        changes: list[RouteChange] = []
        if former is not None and former is not catalogue:
            changes = differences(former, catalogue)
        for number, client in enumerate(tuple(self._clients.values()), 1):
            lists, is_touched = seen_changes(changes, partial(self._admission.seen, client.user))
            for stream in tuple(client.streams):
                if stream.route is not None:
                    self._compare_route(stream, stream.route, client.user)
                    continue
                self._compare_all(stream, client.user, lists)
                if is_touched:
                    stream.attach_again()
            if number % CLIENTS_AT_A_TIME == 0:
                await self._clock.sleep(0)

    def _compare_all(self, stream: Stream, user: UserContext, lists: int) -> None:
        """Notify a stream about several servers, where *lists* changed but for toolsets."""
        former = stream.toolset
        try:
            stream.toolset = current = self._narrowed(stream, user)
        except Refusal as refusal:
            stream.watch.end(refusal)
            return
        if former is None and current is None:
            stream.buffer.changed(lists)
        elif former is None or current is None:
            stream.buffer.changed(ALL_LISTS)
            stream.attach_again()
        elif former is not current and former.pages.wires != current.pages.wires:
            stream.buffer.changed(TOOLS)

    def _narrowed(self, stream: Stream, user: UserContext) -> ToolsetOffering | None:
        exchange = stream.exchange
        if not self._admission.narrows(exchange, user):
            return None
        route = None
        if exchange.slug:
            published = self._routes.route(exchange.slug, user.tenant_id)
            route = None if published is None else self._admission.seen(user, published)
            if route is None:
                raise ServerUnknown
        return self._admission.narrowed(exchange, user, route, stream.client_name)

    def _compare_route(self, stream: Stream, former: Route, user: UserContext) -> None:
        published = self._routes.route(former.slug, former.facts.tenant_id)
        route = None if published is None else self._admission.seen(user, published)
        if (
            route is None
            or route.server_id != former.server_id
            or not _is_hosted(route, stream.era)
        ):
            # Deleted or not visible any more: both look the same to the caller.
            stream.buffer.close()
        elif route is not former:
            stream.route = route
            stream.buffer.changed(changed_lists(former, route))
            stream.attach_again()

    async def _admit_again(self, client: _Client) -> None:
        """End the streams of a client that would be refused now; update its user."""
        streams = tuple(client.streams)
        if not streams:
            return
        try:
            user = await self._admission.identify(streams[0].exchange)
            self._admission.admit_caller(streams[0].exchange, user, Scope.READ_TOOLS)
        except Refusal as refusal:
            for stream in tuple(client.streams):
                stream.watch.end(refusal)
            return
        except DatabaseUnavailable:
            # The next check decides; after a longer outage, all streams end.
            return
        former, client.user = client.user, user
        if former == user:
            return
        seen = self._admission.seen
        lists = changed_views(self._routes.catalogue, partial(seen, former), partial(seen, user))
        for stream in tuple(client.streams):
            if stream.route is not None:
                self._compare_route(stream, stream.route, user)
            else:
                self._compare_all(stream, user, lists)
                stream.attach_again()

    def _streams(self) -> list[Stream]:
        return [stream for client in self._clients.values() for stream in client.streams]


@dataclass(frozen=True, slots=True)
class _Honoured:
    """The part of a client's subscription that the gateway serves."""

    lists: int
    uris: tuple[str, ...]

    def members(self) -> JsonObject:
        """Return it in the form of the acknowledgement."""
        acknowledged: JsonObject = {
            name: True for name, kind in LISTS.items() if kind & self.lists
        }
        if self.uris:
            acknowledged[RESOURCE_SUBSCRIPTIONS] = list(self.uris)
        return acknowledged


def _honoured(offering: Offering, asked: object) -> _Honoured:
    if not isinstance(asked, dict):
        raise InvalidParams("subscriptions/listen needs params.notifications, an object.")
    wanted = asked.get(RESOURCE_SUBSCRIPTIONS) or []
    if (
        not isinstance(wanted, list)
        or len(wanted) > MAX_SUBSCRIPTIONS
        or not all(isinstance(uri, str) and len(uri) <= MAX_URI_CHARACTERS for uri in wanted)
    ):
        raise InvalidParams(f"resourceSubscriptions takes up to {MAX_SUBSCRIPTIONS} URIs.")
    lists = sum(kind for name, kind in LISTS.items() if asked.get(name) is True)
    uris = tuple(uri for uri in dict.fromkeys(wanted) if may_subscribe(offering, uri))
    return _Honoured(lists, uris)


def _can_be_watched(route: Route) -> bool:
    """Whether the server announces list changes, and one connection can serve all callers."""
    is_everybodys = not route.per_user and route.credential_problem is None
    return is_everybodys and may_tell_of_lists(route)


def may_subscribe(offering: Offering, uri: str) -> bool:
    """Whether there is such a resource, on a server that announces its changes."""
    owned = offering.resource(uri)
    return owned is not None and may_tell_of_resources(owned.route)


def _is_hosted(route: Route, era: Era) -> bool:
    """Whether the gateway may be the server of clients of *era* at the path of *route*.

    With OAuth it is the server of those who have not authorised it, and stays it in their session.
    """
    return era not in route.eras or route.transport is Transport.SSE or route.oauth is not None


def _about(stream: Stream) -> str | None:
    return None if stream.route is None else stream.route.server_id


def _key(stream: Stream) -> str:
    return stream.exchange.headers.get("authorization", "")


async def _until_subscribed(feeds: Iterable[Feed]) -> None:
    """Wait, for a limited time, until the servers know the subscriptions."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SUBSCRIBE_SECONDS):
            for feed in feeds:
                await feed.subscribed()
