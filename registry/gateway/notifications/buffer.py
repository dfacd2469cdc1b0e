"""Notification buffer: what one open stream must still send, rendered in its client's era.

A pending notification is stored once, however often it occurs, so that a slow client costs no more
than a fast one. Only messages that servers address to the client wait in a queue.
"""

import asyncio
from collections.abc import Mapping

from registry.core.json import JsonObject
from registry.gateway.edge.error_responses import result_body
from registry.gateway.protocol.envelope import RequestId
from registry.gateway.protocol.messages import event_text
from registry.gateway.view.differences import PROMPTS, RESOURCES, TOOLS
from registry.upstream.messages import notification_text

SUBSCRIPTION_ID_META_KEY = "io.modelcontextprotocol/subscriptionId"
LIST_METHODS: Mapping[int, str] = {
    TOOLS: "notifications/tools/list_changed",
    PROMPTS: "notifications/prompts/list_changed",
    RESOURCES: "notifications/resources/list_changed",
}
RESOURCE_UPDATED = "notifications/resources/updated"
LEGACY_LISTS = {kind: event_text(notification_text(name)) for kind, name in LIST_METHODS.items()}
COMMENT = b": keep-alive\n\n"

MAX_URIS = 2_000
"""Maximum number of changed resources that may wait; a stream with more is not being read."""

MAX_MESSAGES = 1_000
"""Maximum number of servers' messages that may wait."""


class NotificationBuffer:
    """The pending notifications of one stream.

    Args:
        lists: The kinds of lists whose changes are sent; bits of `gateway.view.differences`.
        subscription_id: The id of the request that opened it; None in the handshake's era.

    Attributes:
        is_closed: Whether the stream ends after what is pending.
        is_overrun: Whether a limit was exceeded, so that something was lost.
    """

    __slots__ = (
        "_is_quiet",
        "_kinds",
        "_lists",
        "_messages",
        "_subscription_id",
        "_uris",
        "_waiter",
        "is_closed",
        "is_overrun",
    )

    def __init__(self, lists: int, subscription_id: RequestId | None = None) -> None:
        self._lists = lists
        self._subscription_id = subscription_id
        self._kinds = 0
        self._uris: dict[str, None] | None = None
        self._messages: list[bytes] | None = None
        self._is_quiet = False
        self._waiter: asyncio.Future[None] | None = None
        self.is_closed = False
        self.is_overrun = False

    def changed(self, lists: int) -> None:
        """Add a change of *lists*."""
        wanted = lists & self._lists
        if wanted:
            self._kinds |= wanted
            self.wake()

    def updated(self, uri: str) -> None:
        """Add a change of a resource; *uri* is its public URI."""
        if self._uris is None:
            self._uris = {}
        if len(self._uris) >= MAX_URIS:
            self.is_overrun = True
        else:
            self._uris[uri] = None
        self.wake()

    def say(self, raw: bytes) -> bool:
        """Add a server's own message; return whether there is room for it."""
        if self.is_closed:
            return False
        if self._messages is None:
            self._messages = []
        if len(self._messages) >= MAX_MESSAGES:
            self.is_overrun = True
            return False
        self._messages.append(event_text(raw))
        self.wake()
        return True

    def keep_alive(self) -> None:
        """Add a comment, so that neither the client nor a proxy takes the connection for dead."""
        self._is_quiet = True
        self.wake()

    def close(self) -> None:
        """End the stream after what is pending."""
        self.is_closed = True
        self.wake()

    def wake(self) -> None:
        """End the wait."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until `wake` is called; check for pending work first."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """Return the text of all pending notifications, and clear them."""
        if not (self._kinds or self._uris or self._messages or self._is_quiet):
            return b""
        texts, self._messages = self._messages or [], None
        kinds, uris, self._kinds, self._uris = self._kinds, self._uris, 0, None
        self._is_quiet = False
        texts += [self._list_text(kind) for kind in LIST_METHODS if kind & kinds]
        texts += [self._text(RESOURCE_UPDATED, {"uri": uri}) for uri in uris or ()]
        return b"".join(texts) or COMMENT

    def acknowledgement(self, honoured: JsonObject) -> bytes:
        """Return the first message of a stream of the stateless era."""
        return self._text("notifications/subscriptions/acknowledged", {"notifications": honoured})

    def final_message(self) -> bytes:
        """Return the final message of a stream; empty in the handshake's era."""
        if self._subscription_id is None:
            return b""
        meta = {SUBSCRIPTION_ID_META_KEY: self._subscription_id}
        result = {"resultType": "complete", "_meta": meta}
        return event_text(result_body(result, self._subscription_id))

    def _list_text(self, kind: int) -> bytes:
        if self._subscription_id is None:
            return LEGACY_LISTS[kind]
        return self._text(LIST_METHODS[kind], {})

    def _text(self, method: str, params: JsonObject) -> bytes:
        if self._subscription_id is not None:
            params["_meta"] = {SUBSCRIPTION_ID_META_KEY: self._subscription_id}
        return event_text(notification_text(method, params))
