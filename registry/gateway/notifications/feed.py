"""What one server tells outside of calls, handed to those that listen."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from multidict import CIMultiDict

from registry.core.json import members
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.protocol.messages import Message, error_text, result_text
from registry.gateway.values import Route

UPDATED = "notifications/resources/updated"
LISTS_CHANGED = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/tools/list_changed",
    }
)
METHOD_NOT_FOUND = -32601

HeardListChanged: TypeAlias = Callable[[Route], None]
ReplyTo: TypeAlias = Callable[[bytes], Awaitable[object]]


class Listener(Protocol):
    """Hears of resources of one server."""

    def resource_updated(self, subscribed: str, uri: str) -> None:
        """Take note that *uri* changed, which is *subscribed* or lies below it."""


class Feed:
    """What one server tells, to those that listen.

    Args:
        owner: Whose session with the server it is, where the server keeps sessions.
        capabilities: Of the client whose session it is.
        heard_list_changed: Called when the server says that one of its lists changed.

    Attributes:
        version: Grows with each change of what is subscribed to.
        is_watched: Whether it is kept open for what the server says of its lists alone.
    """

    def __init__(
        self,
        route: Route,
        credentials: CIMultiDict[str],
        owner: SessionOwner,
        capabilities: Mapping[str, Any],
        heard_list_changed: HeardListChanged,
    ) -> None:
        self.route = route
        self.credentials = credentials
        self.owner = owner
        self.capabilities = capabilities
        self.version = 0
        self.is_watched = False
        self._heard_list_changed = heard_list_changed
        self._by_uri: dict[str, dict[Listener, None]] = {}
        self._tried = 0
        self._move = asyncio.Event()

    @property
    def is_wanted(self) -> bool:
        """Whether there is any reason to keep it open."""
        return self.is_watched or bool(self._by_uri)

    @property
    def uris(self) -> frozenset[str]:
        """Return the resources that anybody wants to hear of, as the server names them."""
        return frozenset(self._by_uri)

    def add(self, uri: str, listener: Listener) -> None:
        """Let *listener* hear of *uri*."""
        listeners = self._by_uri.get(uri)
        if listeners is None:
            listeners = self._by_uri[uri] = {}
            self.version += 1
            self._moved()
        listeners[listener] = None

    def drop(self, uri: str, listener: Listener) -> None:
        """Let *listener* hear of *uri* no more."""
        listeners = self._by_uri.get(uri)
        if listeners is None:
            return
        listeners.pop(listener, None)
        if not listeners:
            del self._by_uri[uri]
            self.version += 1
            self._moved()

    def tried(self, version: int) -> None:
        """Note that the server was asked for all of *version*, or could not be."""
        self._tried = max(self._tried, version)
        self._moved()

    async def settled(self) -> None:
        """Wait until the server was asked for all that is wanted now, or could not be."""
        version = self.version
        while self._tried < version and self._by_uri:
            await self._move.wait()

    async def changed(self, version: int) -> None:
        """Wait until something else is wanted than in *version*."""
        while self.version == version:
            await self._move.wait()

    def _moved(self) -> None:
        self._move.set()
        self._move = asyncio.Event()

    async def hear(self, message: Message, reply: ReplyTo) -> None:
        """Act on what the server says."""
        body = message.body
        method = body.get("method")
        if "id" in body:
            if method == "ping":
                await reply(result_text(body["id"], {}))
            elif method is not None:
                told = "Nobody can be asked outside of a call."
                await reply(error_text(body["id"], METHOD_NOT_FOUND, told))
        elif method == UPDATED:
            uri = members(body.get("params")).get("uri")
            if isinstance(uri, str):
                self.updated(uri)
        elif method in LISTS_CHANGED:
            self._heard_list_changed(self.route)

    def updated(self, uri: str) -> None:
        """Note that a resource changed."""
        # Servers may tell of what lies below a resource that was subscribed to.
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
