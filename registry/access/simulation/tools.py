"""What is known today of the tools that recorded calls name."""

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from packages.models.states import Effect
from registry.access.policies.ports import PolicyServer, PolicyServers
from registry.access.policies.tools import ToolLookup, prefix_of
from registry.access.policies.values import ToolFacts
from registry.access.toolsets.resolution import Offered, Presentations, resolve
from registry.access.toolsets.values import Toolset
from registry.core.text import OBJECT_ID
from registry.tools.metadata import COST_TIER
from registry.tools.repository import ToolRepository
from registry.usage.values import UsageRecord


@dataclass(frozen=True, slots=True)
class _OfferedTool:
    """A tool as toolsets take it. Implements `toolsets.resolution.Tool`."""

    name: str
    wire: bytes
    facets: tuple[str, ...]
    tags: tuple[str, ...] = ()
    version: int = 1


class CalledTools:
    """Finds the tools of recorded calls; each is looked up once.

    Not for longer than one request: what was found stays as it was.
    """

    def __init__(self, servers: PolicyServers, tools: ToolRepository) -> None:
        self._servers = servers
        self._tools = tools
        self._owners: dict[str, PolicyServer | None] = {}
        self._lookup = ToolLookup(servers, tools)
        self._found: dict[tuple[str, str | None, str | None], ToolFacts | None] = {}

    async def of(self, server_id: str, record: UsageRecord) -> ToolFacts | None:
        """Return the tool of a recorded call; None if its server offers none of that name."""
        key = (server_id, record.own_tool, record.tool)
        if key not in self._found:
            self._found[key] = await self._find(server_id, record)
        return self._found[key]

    async def default_effect(self, server_id: str) -> Effect:
        """Return what holds for tools of a server that no policy allows."""
        owner = await self._owner(server_id)
        return Effect.ALLOW if owner is None else owner.default_effect

    async def in_toolset(
        self, toolset: Toolset, server_ids: Collection[str]
    ) -> frozenset[tuple[str, str]]:
        """Return server and name of the tools of these servers that a toolset contains."""
        offered = [one async for one in self._offered(server_ids)]
        served, _ = resolve(toolset, offered, Presentations())
        return frozenset((one.server_id, one.tool.name) for one in served.values())

    async def _find(self, server_id: str, record: UsageRecord) -> ToolFacts | None:
        owner = await self._owner(server_id)
        if owner is None:
            return None
        name = record.own_tool or record.tool or ""
        found = await self._lookup.named(owner, name)
        if found is None and record.own_tool is None:
            # As records of earlier releases name a tool of the combined server.
            found = await self._lookup.combined(owner, name)
        return None if found is None else found.facts

    async def _offered(self, server_ids: Collection[str]) -> AsyncIterator[Offered[_OfferedTool]]:
        known = [one for one in sorted(server_ids) if await self._owner(one) is not None]
        rows: dict[str, dict[str, _OfferedTool]] = {one: {} for one in known}
        async for row in self._tools.rows([*rows]):
            if row.is_served:
                rows[row.listed.owner_id][row.name] = _OfferedTool(
                    row.name, row.definition.encode(), row.facets, row.tags, row.version
                )
        for server_id, tools in rows.items():
            owner = await self._owner(server_id)
            if owner is not None:
                found = tools or {
                    name: _OfferedTool(name, one.definition.encode(), one.facets)
                    for name, one in (await self._lookup.described(owner)).items()
                }
                yield Offered(server_id, prefix_of(owner.path), found)

    async def _owner(self, server_id: str) -> PolicyServer | None:
        if server_id not in self._owners:
            is_id = re.fullmatch(OBJECT_ID, server_id) is not None
            self._owners[server_id] = (
                await self._servers.policy_owner(server_id) if is_id else None
            )
        return self._owners[server_id]


def cost_tier_of(tool: ToolFacts | None) -> str | None:
    """Return the cost tier in a tool's facts."""
    found = () if tool is None else tool.facets
    return next((one.partition(":")[2] for one in found if one.startswith(f"{COST_TIER}:")), None)
