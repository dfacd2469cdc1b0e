"""Feed: notifications of one server outside of calls, distributed to its listeners."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from multidict import CIMultiDict

from registry.core.json import members
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.protocol.messages import Message
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.values import Route
from registry.upstream.messages import error_text, result_text

UPDATED = "notifications/resources/updated"
LISTS_CHANGED = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/tools/list_changed",
    }
)
METHOD_NOT_FOUND = -32601

ReplyTo: TypeAlias = Callable[[bytes], Awaitable[object]]


class Listener(Protocol):
    """Receives changes of resources of one server."""

    def resource_updated(self, subscribed: str, uri: str) -> None:
        """Handle a change of *uri*, which is *subscribed* or lies below it."""


class Feed:
    """Notifications of one server, for its listeners.

    Args:
        owner: The owner of the session with the server, if the server keeps sessions.
        capabilities: Those of the client whose session it is.
        announced_lists: Notified when a server announces that one of its lists changed.

    Attributes:
        version: Incremented with each change of the subscriptions.
        is_watched: Whether it is kept open for list changes alone.
    """

    def __init__(
        self,
        route: Route,
        credentials: CIMultiDict[str],
        owner: SessionOwner,
        capabilities: Mapping[str, Any],
        announced_lists: AnnouncedLists,
    ) -> None:
        self.route = route
        self.credentials = credentials
        self.owner = owner
        self.capabilities = capabilities
        self.version = 0
        self.is_watched = False
        self._announced_lists = announced_lists
        self._by_uri: dict[str, dict[Listener, None]] = {}
        self._tried = 0
        self._move = asyncio.Event()

    @property
    def is_wanted(self) -> bool:
        """Whether the feed has to be open."""
        return self.is_watched or bool(self._by_uri)

    @property
    def uris(self) -> frozenset[str]:
        """Return the subscribed resources, by the server's URIs."""
        return frozenset(self._by_uri)

    def add(self, uri: str, listener: Listener) -> None:
        """Subscribe *listener* to *uri*."""
        listeners = self._by_uri.get(uri)
        if listeners is None:
            listeners = self._by_uri[uri] = {}
            self.version += 1
            self._moved()
        listeners[listener] = None

    def drop(self, uri: str, listener: Listener) -> None:
        """Unsubscribe *listener* from *uri*."""
        listeners = self._by_uri.get(uri)
        if listeners is None:
            return
        listeners.pop(listener, None)
        if not listeners:
            del self._by_uri[uri]
            self.version += 1
            self._moved()

    def tried(self, version: int) -> None:
        """Note that the subscriptions of *version* were sent to the server, or could not be."""
        self._tried = max(self._tried, version)
        self._moved()

    async def subscribed(self) -> None:
        """Wait until the current subscriptions were sent to the server, or could not be."""
        version = self.version
        while self._tried < version and self._by_uri:
            await self._move.wait()

    async def changed(self, version: int) -> None:
        """Wait until the subscriptions differ from those of *version*."""
        while self.version == version:
            await self._move.wait()

    def _moved(self) -> None:
        self._move.set()
        self._move = asyncio.Event()

    async def receive(self, message: Message, reply: ReplyTo) -> None:
        """Handle a message of the server."""
        body = message.body
        method = body.get("method")
        if "id" in body:
            if method == "ping":
                await reply(result_text(body["id"], {}))
            elif method is not None:
                reason = "The client cannot be asked outside of a call."
                await reply(error_text(body["id"], METHOD_NOT_FOUND, reason))
        elif method == UPDATED:
            uri = members(body.get("params")).get("uri")
            if isinstance(uri, str):
                self.updated(uri)
        elif method in LISTS_CHANGED:
            self._announced_lists.add(self.route)

    def updated(self, uri: str) -> None:
        """Pass on that a resource changed."""
        # Servers may report what lies below a resource that was subscribed to.
        above = uri
        while True:
            for listener in tuple(self._by_uri.get(above, ())):
                listener.resource_updated(above, uri)
            if above.endswith("/"):
                above = above[:-1]
            else:
                head, slash, _ = above.rpartition("/")
                if not slash:
                    return
                above = head + slash
