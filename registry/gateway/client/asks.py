"""What is asked of a server on behalf of a client, and the conversation about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from multidict import CIMultiDict

from registry.core.json import JsonObject
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.protocol.messages import (
    Message,
)
from registry.gateway.values import Route, ToolEntry
from registry.servers.values import Era
from registry.upstream.client import CLIENT_INFO

GATEWAY_OWNER = SessionOwner("")
"""The gateway itself, for sessions that belong to no person."""


@dataclass(slots=True, kw_only=True)
class Ask:
    """One request to be sent to a server.

    Attributes:
        era: Of the client; a server that speaks it is spoken to in it.
        params: As that server knows things; copied before anything is added.
        is_exact: Whether orjson writes *params* without loss.
        credentials: The stored headers for this caller, credentials included.
        passed_on: Headers of the client that go upstream: trace context.
        capabilities: Of the client, as the server is to see them.
        info: Who the client is.
        level: Least severe log messages that the client wants; None leaves it to the server.
        tool: The tool that is called, if one is.
        may_repeat: Whether a second call would change nothing.
        is_standing: Whether it opens a stream that stays open, and takes no place of a call.
        user_id: Whose connection it goes over, where users have their own.
        owner: Whose session with the server it goes over, where servers keep any.
        is_sent: Whether the server may have received it: set by what sends it.
    """

    route: Route
    era: Era
    method: str
    params: JsonObject
    is_exact: bool
    credentials: CIMultiDict[str] = field(repr=False)
    passed_on: Mapping[str, str]
    capabilities: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=lambda: CLIENT_INFO)
    level: str | None = None
    tool: ToolEntry | None = None
    may_repeat: bool = False
    is_standing: bool = False
    user_id: str | None = None
    owner: SessionOwner = GATEWAY_OWNER
    is_sent: bool = False


class Conversation(Protocol):
    """One request under way.

    Attributes:
        request_id: What the server knows the request by.
        era: Of the server.
        is_open: Whether the request was sent, and the last message has not come.
    """

    request_id: str
    era: Era
    is_open: bool

    async def next(self) -> Message:
        """Return what comes next; the answer is the last.

        Raises:
            Refusal: The server failed.
        """

    def reply_address(self) -> list[str | None]:
        """Return what `Connector.reply` needs to answer something that the server asked."""

    async def reply(self, message: bytes) -> None:
        """Answer something that the server asked."""

    def was_answered(self) -> None:
        """Note that the client answered something that the server asked, by another request."""

    async def cancel(self, reason: str) -> None:
        """Tell the server that the answer is not wanted any more. Does not raise."""

    def rest(self) -> None:
        """Let the server be silent for as long as it likes, until messages are read again."""

    async def leave_place(self) -> None:
        """Count no longer as a call under way, though it goes on."""

    async def close(self) -> None:
        """Give back what the conversation holds."""
