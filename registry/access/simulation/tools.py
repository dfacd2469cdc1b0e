"""What is known today of the tools that recorded calls name."""

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from packages.models.states import Effect
from registry.access.policies.ports import PolicyServer, PolicyServers
from registry.access.policies.values import ToolFacts
from registry.access.toolsets.resolution import Offered, Presentations, resolve
from registry.access.toolsets.values import Toolset
from registry.core.text import OBJECT_ID
from registry.tools.metadata import COST_TIER, facets_of, known, said_in
from registry.tools.naming import SEPARATOR, public_prefix, public_suffix, slug_of
from registry.tools.projection import restore
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
        self._described: dict[str, dict[str, _OfferedTool]] = {}
        self._names: dict[str, Collection[str]] = {}
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
        if record.own_tool is not None:
            return await self._one(owner, record.own_tool)
        name = record.tool or ""
        found = await self._one(owner, name)
        if found is not None:
            return found
        # As records of earlier releases name a tool of the combined server.
        prefix, separator, suffix = name.partition(SEPARATOR)
        if not separator or prefix != _prefix_of(owner):
            return None
        for own in await self._own_names(owner):
            if public_suffix(prefix, own) == suffix:
                return await self._one(owner, own)
        return None

    async def _one(self, owner: PolicyServer, name: str) -> ToolFacts | None:
        stored = await self._tools.get(owner.id, name)
        if stored is not None:
            return ToolFacts(name, stored.effects)
        described = (await self._elsewhere(owner)).get(name)
        return None if described is None else ToolFacts(name, described.facets)

    async def _own_names(self, owner: PolicyServer) -> Collection[str]:
        if owner.id not in self._names:
            stored = await self._tools.stored(owner.id)
            self._names[owner.id] = {*stored, *await self._elsewhere(owner)}
        return self._names[owner.id]

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
                found = tools or await self._elsewhere(owner)
                yield Offered(server_id, _prefix_of(owner), found)

    async def _owner(self, server_id: str) -> PolicyServer | None:
        if server_id not in self._owners:
            is_id = re.fullmatch(OBJECT_ID, server_id) is not None
            self._owners[server_id] = (
                await self._servers.policy_owner(server_id) if is_id else None
            )
        return self._owners[server_id]

    async def _elsewhere(self, owner: PolicyServer) -> dict[str, _OfferedTool]:
        """Return the tools of a server that the other application alone has described."""
        if not owner.is_described_elsewhere:
            return {}
        if owner.id not in self._described:
            functions = await self._servers.tool_functions(owner.id)
            self._described[owner.id] = {
                tool.name: _OfferedTool(
                    tool.name,
                    tool.definition.encode(),
                    facets_of(known(tool.name, said_in(tool.definition), {})),
                )
                for tool in restore(functions, owner.name).tools
            }
        return self._described[owner.id]


def cost_tier_of(tool: ToolFacts | None) -> str | None:
    """Return the cost tier in a tool's facts."""
    found = () if tool is None else tool.facets
    return next((one.partition(":")[2] for one in found if one.startswith(f"{COST_TIER}:")), None)


def _prefix_of(owner: PolicyServer) -> str:
    return public_prefix(slug_of(owner.path) or owner.path)
