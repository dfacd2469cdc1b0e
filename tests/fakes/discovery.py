"""A stand-in for upstreams: answers by URL, and remembers who was asked."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from registry.core.definitions import Rejection
from registry.core.json import JsonObject
from registry.servers.errors import UnsafeUrlError
from registry.servers.ports import Progressing
from registry.servers.values import ConnectionSpec, Discovered, Era
from registry.tools.values import ToolDefinition, ToolSnapshot


def tool(name: str, description: str = "Does it.") -> ToolDefinition:
    """Return a tool with a one-argument schema."""
    schema: JsonObject = {"type": "object", "properties": {"text": {"type": "string"}}}
    whole: JsonObject = {"name": name, "description": description, "inputSchema": schema}
    text = json.dumps(whole)
    return ToolDefinition(
        name=name,
        title=None,
        description=description,
        definition=text,
        input_schema=json.dumps(schema),
        output_schema=None,
        annotations=None,
        discovery_hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def found(*tools: ToolDefinition, rejected: tuple[Rejection, ...] = ()) -> Discovered:
    """Return what an upstream with these tools answers."""
    return Discovered(
        snapshot=ToolSnapshot(tools, rejected),
        capabilities={"tools": {"listChanged": True}},
        protocol_version="2025-11-25",
        eras=frozenset({Era.LEGACY}),
        instructions=None,
        init_duration_ms=12,
    )


@dataclass(slots=True)
class FakeDiscovery:
    """Implements registry.servers.ports.Discovery.

    Attributes:
        answer: Called for every discovery; may raise.
        meanwhile: Awaited while the upstream is being read.
        metadata: What `oauth_metadata` answers.
        asked: Every connection that was asked for, in order.
    """

    answer: Callable[[ConnectionSpec], Discovered] = lambda _: found(tool("echo"))
    meanwhile: Callable[[], Awaitable[object]] | None = None
    metadata: JsonObject | None = None
    asked: list[ConnectionSpec] = field(default_factory=list)

    async def discover(
        self, connection: ConnectionSpec, progress: Progressing | None = None
    ) -> Discovered:
        """Answer as told."""
        self.asked.append(connection)
        if self.meanwhile is not None:
            await self.meanwhile()
        answer = self.answer(connection)
        if progress is not None:
            progress(len(answer.snapshot.tools))
        return answer

    async def oauth_metadata(self, connection: ConnectionSpec) -> JsonObject | None:
        """Answer as told."""
        self.asked.append(connection)
        return self.metadata

    async def check_url(self, url: str) -> None:
        """Refuse addresses that name a cloud's metadata service."""
        if "169.254." in url:
            raise UnsafeUrlError("may not be contacted")


@dataclass(slots=True)
class RecordedChanges:
    """Implements registry.servers.ports.ServerChanges."""

    changed: list[str] = field(default_factory=list)

    async def server_changed(self, server_id: str) -> None:
        """Remember it."""
        self.changed.append(server_id)
