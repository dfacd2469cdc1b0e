"""Open feeds of this worker: each stays open while at least one client listens to it.

A feed belongs to a client's session with the server; from a server of the stateless era, one feed
serves all clients with the same credentials. After a failure it is opened again.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import structlog
from multidict import CIMultiDict

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.gateway.client.answers import FAILURES
from registry.gateway.client.asks import GATEWAY_OWNER
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import (
    SessionKey,
    SessionOwner,
    lasting_headers,
    session_key,
)
from registry.gateway.errors import Refusal
from registry.gateway.notifications.feed import Feed, Listener
from registry.gateway.notifications.feed_sources import SOURCES, SourceKind, source_kind
from registry.gateway.notifications.stream_limits import StreamLimits
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.values import Route

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
"""Pause before a server is tried again: doubled each time, with jitter."""

STEADY_SECONDS = 30.0
"""A feed that was open for this long starts with the short pause again."""

FeedKey: TypeAlias = SessionKey | tuple[str, str, tuple[tuple[str, str], ...], str]


class Feeds:
    """The feeds of this worker.

    Args:
        streams: Limits the long-lived streams to one server.
    """

    def __init__(
        self,
        connector: Connector,
        background_tasks: BackgroundTasks,
        clock: Clock,
        metrics: Metrics,
        *,
        streams: StreamLimits,
        announced_lists: AnnouncedLists,
    ) -> None:
        self._connector = connector
        self._background_tasks = background_tasks
        self._clock = clock
        self._open_feeds = metrics.gateway_notification_feeds
        self._streams = streams
        self._announced_lists = announced_lists
        self._feeds: dict[FeedKey, Feed] = {}
        self._tasks: dict[Feed, asyncio.Task[None]] = {}
        self._watched: dict[str, Feed] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def feed(
        self,
        route: Route,
        credentials: CIMultiDict[str],
        owner: SessionOwner,
        capabilities: Mapping[str, Any],
    ) -> Feed:
        """Return the feed for a client; it opens with the first listener."""
        key = feed_key(route, credentials, owner, capabilities)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(
                route, credentials, owner, capabilities, self._announced_lists
            )
        return feed

    def listen(self, feed: Feed, uris: Iterable[str], listener: Listener) -> None:
        """Add *listener* for *uris*."""
        for uri in uris:
            feed.add(uri, listener)
        self._open(feed)

    def leave(self, feed: Feed, uris: Iterable[str], listener: Listener) -> None:
        """Remove *listener* for *uris*; a feed without listeners ends."""
        for uri in uris:
            feed.drop(uri, listener)
        self._close(feed)

    def watch(self, routes: Mapping[str, Route]) -> None:
        """Listen for list changes of exactly these servers, by their ids."""
        for server_id, feed in tuple(self._watched.items()):
            route = routes.get(server_id)
            if route is None or (route.url, route.headers) != (feed.route.url, feed.credentials):
                del self._watched[server_id]
                feed.is_watched = False
                self._close(feed)
        for server_id, route in routes.items():
            if server_id not in self._watched:
                feed = self._watched[server_id] = self.feed(
                    route, route.headers, GATEWAY_OWNER, {}
                )
                feed.is_watched = True
                self._open(feed)

    def _open(self, feed: Feed) -> None:
        if feed.is_wanted and feed not in self._tasks:
            self._tasks[feed] = self._background_tasks.start(self._run(feed))
            self._open_feeds.inc()

    def _close(self, feed: Feed) -> None:
        if feed.is_wanted:
            return
        key = feed_key(feed.route, feed.credentials, feed.owner, feed.capabilities)
        if self._feeds.get(key) is feed:
            del self._feeds[key]
        task = self._tasks.pop(feed, None)
        if task is not None:
            self._open_feeds.dec()
            task.cancel()

    async def _run(self, feed: Feed) -> None:
        """Keep a feed open until cancelled."""
        source = SOURCES[source_kind(feed.route)]
        pause = FIRST_PAUSE_SECONDS
        while True:
            began_at = self._clock.monotonic()
            try:
                with self._streams.hold(feed.route.server_id):
                    await source(self._connector, feed)
            except* (Refusal, *FAILURES) as group:
                log.debug(
                    "notification_feed_interrupted",
                    server=feed.route.slug,
                    reason=type(group.exceptions[0]).__name__,
                )
            except* Exception:
                # Whatever a server did, its feed is tried again like any other.
                log.exception("notification_feed_failed", server=feed.route.slug)
            feed.tried(feed.version)
            if self._clock.monotonic() - began_at > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            # Jitter: workers and replicas must not reconnect at the same moment.
            await self._clock.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def feed_key(
    route: Route,
    credentials: Mapping[str, str],
    owner: SessionOwner,
    capabilities: Mapping[str, Any],
) -> FeedKey:
    """Return the key under which listeners share a feed.

    Servers of the stateless era keep no state per client; all others have a session.
    """
    if source_kind(route) is SourceKind.SUBSCRIPTION:
        # With access tokens, which change, credentials are those of one person.
        principal = "" if route.oauth is None else owner.principal
        return (route.server_id, route.url, lasting_headers(route, credentials), principal)
    return session_key(route, credentials, capabilities, owner)
