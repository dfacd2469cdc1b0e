"""What one open stream is still to be told, and the text of it in its client's era.

What was not told yet is remembered once, however often it happens, so that a client that reads
slowly costs no more than one that reads at once. Only what servers say to a client in their own
words waits in a queue.
"""

import asyncio
from collections.abc import Mapping

from registry.core.json import JsonObject
from registry.gateway.edge.error_responses import result_body
from registry.gateway.protocol.envelope import RequestId
from registry.gateway.protocol.messages import event_text, notification_text
from registry.gateway.view.differences import PROMPTS, RESOURCES, TOOLS

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
"""Changed resources that may wait to be told; one that has more to tell is not being read."""

MAX_MESSAGES = 1_000
"""Messages of servers that may wait likewise."""


class NotificationBuffer:
    """The things to be told on one stream.

    Args:
        lists: The kinds of lists whose changes are told; bits of `gateway.differences`.
        subscription_id: The id of the request that opened it; None in the handshake's era.

    Attributes:
        is_closed: Whether nothing comes after what is still to be told.
        is_overrun: Whether there is more to tell than is remembered.
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
        """Note that *lists* changed."""
        wanted = lists & self._lists
        if wanted:
            self._kinds |= wanted
            self.wake()

    def updated(self, uri: str) -> None:
        """Note that a resource changed; *uri* is the client's for it."""
        if self._uris is None:
            self._uris = {}
        if len(self._uris) >= MAX_URIS:
            self.is_overrun = True
        else:
            self._uris[uri] = None
        self.wake()

    def say(self, raw: bytes) -> bool:
        """Have a server's own message sent; return whether there is room for it."""
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
        """Have something sent that means nothing, so that nobody takes the stream for dead."""
        self._is_quiet = True
        self.wake()

    def close(self) -> None:
        """Let the stream end once all is told."""
        self.is_closed = True
        self.wake()

    def wake(self) -> None:
        """End the wait for something to do."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until `wake` is called; look before whether there is something to do."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """Return the text of all that is to be told, which is then no more."""
        if not (self._kinds or self._uris or self._messages or self._is_quiet):
            return b""
        texts, self._messages = self._messages or [], None
        kinds, uris, self._kinds, self._uris = self._kinds, self._uris, 0, None
        self._is_quiet = False
        texts += [self._list_text(kind) for kind in LIST_METHODS if kind & kinds]
        texts += [self._text(RESOURCE_UPDATED, {"uri": uri}) for uri in uris or ()]
        return b"".join(texts) or COMMENT

    def acknowledgement(self, honoured: JsonObject) -> bytes:
        """Return what a stream of the stateless era begins with."""
        return self._text("notifications/subscriptions/acknowledged", {"notifications": honoured})

    def last_words(self) -> bytes:
        """Return what says that the stream ends on purpose; only the stateless era has it."""
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
