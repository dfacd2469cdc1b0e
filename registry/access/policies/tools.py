"""Tools by their names on servers, as policies, explanations and simulations look them up."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from registry.access.policies.ports import PolicyServer, PolicyServers
from registry.access.policies.values import ToolFacts
from registry.tools.exposure import SERVED
from registry.tools.lifecycle import State
from registry.tools.metadata import facets_of, known, said_in
from registry.tools.naming import SEPARATOR, public_prefix, public_suffix, slug_of
from registry.tools.projection import restore
from registry.tools.repository import ToolRepository


@dataclass(frozen=True, slots=True)
class FoundTool:
    """A tool of a server, with its states."""

    state: State
    facts: ToolFacts


@dataclass(frozen=True, slots=True)
class DescribedTool:
    """A tool that the other application alone has described.

    Attributes:
        definition: JSON text.
        facets: Its known effects.
    """

    name: str
    definition: str
    facets: tuple[str, ...]


class ToolLookup:
    """Finds tools, those that the other application alone has described included.

    Not for longer than one request: what was read of a server stays as it was. No access check.
    """

    def __init__(self, servers: PolicyServers, tools: ToolRepository) -> None:
        self._servers = servers
        self._tools = tools
        self._described: dict[str, dict[str, DescribedTool]] = {}
        self._names: dict[str, Collection[str]] = {}

    async def named(self, owner: PolicyServer, name: str) -> FoundTool | None:
        """Return the tool that has this name on its server."""
        stored = await self._tools.get(owner.id, name)
        if stored is not None:
            return FoundTool(stored.state, ToolFacts(name, stored.effects))
        described = (await self.described(owner)).get(name)
        return None if described is None else FoundTool(SERVED, ToolFacts(name, described.facets))

    async def combined(self, owner: PolicyServer, name: str) -> FoundTool | None:
        """Return the tool of a server that has this name on the aggregate server."""
        prefix, separator, suffix = name.partition(SEPARATOR)
        if not separator or prefix != prefix_of(owner.path):
            return None
        if owner.id not in self._names:
            stored = await self._tools.stored(owner.id)
            self._names[owner.id] = {*stored, *await self.described(owner)}
        for own in self._names[owner.id]:
            if public_suffix(prefix, own) == suffix:
                return await self.named(owner, own)
        return None

    async def described(self, owner: PolicyServer) -> Mapping[str, DescribedTool]:
        """Return the tools of a server that the other application alone has described."""
        if not owner.is_described_elsewhere:
            return {}
        if owner.id not in self._described:
            functions = await self._servers.tool_functions(owner.id)
            self._described[owner.id] = {
                tool.name: DescribedTool(
                    tool.name,
                    tool.definition,
                    facets_of(known(tool.name, said_in(tool.definition), {})),
                )
                for tool in restore(functions, owner.name).tools
            }
        return self._described[owner.id]


def prefix_of(path: str) -> str:
    """Return how names of the tools of the server at a path begin on the aggregate server."""
    return public_prefix(slug_of(path) or path)
