"""The feeds that one stream of a client listens to, with the public URIs of their resources."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from registry.gateway.client.sessions import SessionOwner
from registry.gateway.notifications.feed import Feed
from registry.gateway.notifications.feeds import FeedKey, Feeds, feed_key
from registry.gateway.values import Route


@dataclass(slots=True)
class Wanted:
    """The resources of one server that a client subscribed to.

    Attributes:
        publics: Public URIs by the server's own URI.
    """

    route: Route
    credentials: CIMultiDict[str] = field(repr=False)
    owner: SessionOwner
    capabilities: Mapping[str, Any]
    publics: dict[str, list[str]] = field(default_factory=dict)

    @property
    def feed_key(self) -> FeedKey:
        """Return the key of the feed that reports these resources."""
        return feed_key(self.route, self.credentials, self.owner, self.capabilities)

    def add(self, uri: str, public: str) -> None:
        """Add a resource by the server's URI and the public one."""
        self.publics.setdefault(uri, []).append(public)


class _Attachment:
    """Listens to one feed for one stream."""

    __slots__ = ("_publics", "_tell", "feed")

    def __init__(self, feed: Feed, tell: Callable[[str], None]) -> None:
        self.feed = feed
        self._tell = tell
        self._publics: Mapping[str, list[str]] = {}

    def resource_updated(self, subscribed: str, uri: str) -> None:
        below = uri[len(subscribed) :]
        for public in self._publics.get(subscribed, ()):
            self._tell(public + below)

    def follow(self, feeds: Feeds, publics: Mapping[str, list[str]]) -> None:
        former, self._publics = self._publics, publics
        feeds.listen(self.feed, publics.keys() - former.keys(), self)
        feeds.leave(self.feed, former.keys() - publics.keys(), self)


class Attachments:
    """What one stream listens to.

    Args:
        feeds: The feeds of this worker.
        tell: Called with the public URI of each resource that changed.

    Attributes:
        lock: Held while the wanted feeds are computed, and until `replace` has applied them.
    """

    __slots__ = ("_attached", "_feeds", "_is_closed", "_tell", "lock")

    def __init__(self, feeds: Feeds, tell: Callable[[str], None]) -> None:
        self._feeds = feeds
        self._tell = tell
        self._attached: dict[FeedKey, _Attachment] = {}
        self._is_closed = False
        self.lock = asyncio.Lock()

    @property
    def feeds(self) -> list[Feed]:
        """Return the feeds that are listened to."""
        return [one.feed for one in self._attached.values()]

    def replace(self, wanted: Mapping[FeedKey, Wanted]) -> None:
        """Listen to exactly what is *wanted*."""
        if self._is_closed:
            return
        for key, one in wanted.items():
            attachment = self._attached.get(key)
            if attachment is None:
                feed = self._feeds.feed(one.route, one.credentials, one.owner, one.capabilities)
                attachment = self._attached[key] = _Attachment(feed, self._tell)
            attachment.follow(self._feeds, one.publics)
        for key in [key for key in self._attached if key not in wanted]:
            self._attached.pop(key).follow(self._feeds, {})

    def close(self) -> None:
        """Stop listening, for good."""
        self.replace({})
        self._is_closed = True
