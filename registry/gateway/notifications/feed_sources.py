"""Sources of a feed, one function for each kind of server; each ends only by failing.

All of them open a stream that may be silent for as long as the server likes, keep the server's
subscriptions up to date, and pass on all messages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import TypeAlias

import structlog

from registry.core.json import JsonObject, JsonValue, members
from registry.gateway.client.asks import Ask
from registry.gateway.client.connector import Connector
from registry.gateway.client.conversations import SseConversation, converse
from registry.gateway.client.sessions import UpstreamSession, session_key
from registry.gateway.errors import UpstreamFailed
from registry.gateway.notifications.feed import Feed
from registry.gateway.protocol.messages import Message, MessageKind
from registry.gateway.values import Route
from registry.servers.values import Era, Transport

log = structlog.get_logger()

ACKNOWLEDGE_SECONDS = 10.0
SIGN_OF_LIFE_SECONDS = 60.0
"""Interval of pings that keep a session alive, and reveal its loss."""

RENEW_SECONDS = 600.0
"""How often a stream of the stateless era is opened again: it has no other sign of life."""

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class SourceKind(Enum):
    """How a server sends notifications outside of calls."""

    SESSION = "session"
    SUBSCRIPTION = "subscription"
    EVENTS = "events"


Source: TypeAlias = Callable[[Connector, Feed], Awaitable[None]]
Subscribe: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Sends `resources/subscribe` or `resources/unsubscribe` for a URI."""


def source_kind(route: Route) -> SourceKind:
    """Return how the server of *route* sends notifications."""
    if route.transport is Transport.SSE:
        return SourceKind.EVENTS
    return SourceKind.SUBSCRIPTION if Era.MODERN in route.eras else SourceKind.SESSION


async def from_session(connector: Connector, feed: Feed) -> None:
    """Feed from the listener's session, and its GET stream.

    Raises:
        ExceptionGroup: Contains a Refusal, or one of `connector.FAILURES`.
    """
    await _renew(connector, feed)
    key = session_key(feed.route, feed.credentials, feed.capabilities, feed.owner)
    session = await connector.sessions.acquire(
        key, feed.route, feed.credentials, feed.capabilities
    )

    async def subscribe(method: str, uri: str) -> None:
        # In another worker there may be a listener with the same session.
        if method == "resources/subscribe" or feed.owner.session is not None:
            await _asked(connector, session, method, {"uri": uri})

    async def send_ping() -> None:
        await _asked(connector, session, "ping", {})

    async def until_lost() -> None:
        await session.lost.wait()
        raise UpstreamFailed(f"The {feed.route.named} ended the session.")

    try:
        if not session.has_stream:
            raise UpstreamFailed(f"The {feed.route.named} offers no stream.")
        session.listeners[feed] = None
        async with asyncio.TaskGroup() as group:
            group.create_task(until_lost())
            group.create_task(_follow(feed, subscribe, send_ping))
    finally:
        session.listeners.pop(feed, None)
        connector.sessions.release(session)


async def from_subscription(connector: Connector, feed: Feed) -> None:
    """Feed from `subscriptions/listen`, which is opened again when the subscriptions change.

    Raises:
        ExceptionGroup: Contains a Refusal, or one of `connector.FAILURES`.
    """
    former: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        while True:
            version = feed.version
            is_open = asyncio.Event()
            current = group.create_task(_read_subscription(connector, feed, is_open))
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                await is_open.wait()
            if former is not None:
                # Only now, so that nothing is missed between the two streams.
                former.cancel()
            former = current
            feed.tried(version)
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await feed.changed(version)


async def from_events(connector: Connector, feed: Feed) -> None:
    """Feed from the event stream of a server of the HTTP+SSE transport.

    Raises:
        ExceptionGroup: Contains a Refusal, or one of `connector.FAILURES`.
    """
    await _renew(connector, feed)
    conversation = SseConversation(connector, _ask(feed, "ping", {}))

    async def subscribe(method: str, uri: str) -> None:
        await conversation.send_request(method, {"uri": uri})

    async def send_ping() -> None:
        await conversation.send_request("ping", {})

    async def read() -> None:
        while True:
            await feed.receive(await conversation.next(), conversation.reply)

    try:
        await conversation.initialize()
        conversation.rest()
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(_follow(feed, subscribe, send_ping))
    finally:
        await conversation.close()


SOURCES: Mapping[SourceKind, Source] = {
    SourceKind.SESSION: from_session,
    SourceKind.SUBSCRIPTION: from_subscription,
    SourceKind.EVENTS: from_events,
}


async def _follow(
    feed: Feed, subscribe: Subscribe, send_ping: Callable[[], Awaitable[None]]
) -> None:
    """Keep the server's subscriptions equal to the wanted ones."""
    asked: set[str] = set()
    while True:
        version, wanted = feed.version, feed.uris
        for uri in wanted - asked:
            await subscribe("resources/subscribe", uri)
            asked.add(uri)
        for uri in asked - wanted:
            await subscribe("resources/unsubscribe", uri)
        asked &= wanted
        feed.tried(version)
        try:
            async with asyncio.timeout(SIGN_OF_LIFE_SECONDS):
                await feed.changed(version)
        except TimeoutError:
            await send_ping()


async def _asked(
    connector: Connector, session: UpstreamSession, method: str, params: JsonObject
) -> None:
    """Send a request in a session; an error response is final."""
    answer = await connector.ask_in(session, method, params)
    error = answer.body.get("error")
    if error is not None:
        code = members(error).get("code")
        log.debug(
            "notification_feed_request_rejected",
            server=session.route.slug,
            method=method,
            code=code,
        )


async def _renew(connector: Connector, feed: Feed) -> None:
    """Use the access token that the owner of the feed has now."""
    feed.credentials = await connector.sessions.newest(feed.route, feed.owner, feed.credentials)


async def _read_subscription(connector: Connector, feed: Feed, is_open: asyncio.Event) -> None:
    wanted: JsonObject = {"resourceSubscriptions": list[JsonValue](sorted(feed.uris))}
    for member, capability in (
        ("toolsListChanged", "tools"),
        ("promptsListChanged", "prompts"),
        ("resourcesListChanged", "resources"),
    ):
        if members(feed.route.capabilities.get(capability)).get("listChanged"):
            wanted[member] = True
    await _renew(connector, feed)
    ask = _ask(feed, "subscriptions/listen", {"notifications": wanted})
    conversation = await converse(connector, ask)
    try:
        conversation.rest()
        while True:
            message: Message = await conversation.next()
            if message.kind is MessageKind.ANSWER:
                raise UpstreamFailed(f"The {feed.route.named} ended its stream.")
            if message.body.get("method") == ACKNOWLEDGED:
                is_open.set()
            else:
                await feed.receive(message, conversation.reply)
    finally:
        await conversation.close()


def _ask(feed: Feed, method: str, params: JsonObject) -> Ask:
    return Ask(
        route=feed.route,
        era=Era.MODERN,
        method=method,
        params=params,
        is_exact=True,
        credentials=feed.credentials,
        passed_on={},
        capabilities={},
        is_standing=True,
        owner=feed.owner,
    )
